#ifndef RUNLOOP_TESTS_SEQUENCE_STREAM_SESSION_H_
#define RUNLOOP_TESTS_SEQUENCE_STREAM_SESSION_H_

#include <memory>

#include "runloop/daemon/session_protocol.h"
#include "runloop/runtime/session.h"
#include "runloop/tests/sequence/message_session.h"
#include "runloop/tests/sequence/observed.h"

namespace runloop::sequence {

// What a session stream does with a message, and whence it takes an answer; the gRPC that carries
// both is tested elsewhere (daemon/session_stream_test.cc). Null: the session has ended.
std::unique_ptr<MessageSession> NewStreamSession(const daemon::SessionTerms& terms,
                                                 daemon::SessionTools& tools,
                                                 const std::shared_ptr<Session>& session,
                                                 Observed& observed);

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_STREAM_SESSION_H_

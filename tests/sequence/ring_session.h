#ifndef RUNLOOP_TESTS_SEQUENCE_RING_SESSION_H_
#define RUNLOOP_TESTS_SEQUENCE_RING_SESSION_H_

#include <memory>

#include "runloop/daemon/ring_server.h"
#include "runloop/runtime/session.h"
#include "runloop/tests/sequence/message_session.h"
#include "runloop/tests/sequence/observed.h"

namespace runloop::sequence {

// Sessions that are carried by rings: all of it runs but the side channel, by which a worker is
// given its ring (daemon/side_channel_server_test.cc).

// Takes things in for the runtime of `terms` from here on. Null: it has failed.
std::shared_ptr<daemon::RingServer> NewRingServer(const daemon::SessionTerms& terms,
                                                  Observed& observed);

// Null: the session has ended.
std::unique_ptr<MessageSession> NewRingSession(std::shared_ptr<daemon::RingServer> server,
                                               const std::shared_ptr<Session>& session,
                                               Observed& observed);

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_RING_SESSION_H_

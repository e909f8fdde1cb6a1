#ifndef RUNLOOP_TESTS_SEQUENCE_MESSAGE_SERVER_H_
#define RUNLOOP_TESTS_SEQUENCE_MESSAGE_SERVER_H_

#include <memory>

#include "runloop/daemon/ring_server.h"
#include "runloop/daemon/session_protocol.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/session.h"
#include "runloop/tests/sequence/message_session.h"
#include "runloop/tests/sequence/observed.h"
#include "runloop/tests/sequence/transport.h"

namespace runloop::sequence {

// The daemon's part that all message sessions of one runtime share.
class MessageServer {
 public:
  // Takes things in for the runtime from here on.
  MessageServer(Transport transport, std::shared_ptr<internal::RuntimeCore> core,
                Observed& observed);

  // Null: the session has ended, so there is nothing that could be carried.
  std::unique_ptr<MessageSession> Open(const std::shared_ptr<Session>& session);

  const daemon::SessionTerms& terms() const { return terms_; }

 private:
  Observed& observed_;
  const daemon::SessionTerms terms_;
  daemon::SessionTools tools_;
  std::shared_ptr<daemon::RingServer> rings_;  // null: streams
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_MESSAGE_SERVER_H_

#include "runloop/tests/sequence/message_server.h"

#include <utility>

#include "runloop/runtime/batch.h"
#include "runloop/tests/sequence/ring_session.h"
#include "runloop/tests/sequence/stream_session.h"

namespace runloop::sequence {

MessageServer::MessageServer(Transport transport, std::shared_ptr<internal::RuntimeCore> core,
                             Observed& observed)
    : observed_(observed),
      terms_{.core = core,
             .operations = core->operations().List(),
             .max_message_bytes = kMaxMessageBytes,
             // The runtime's own bounds are met first.
             .max_unfinished = core->bounds().total.items + static_cast<int64_t>(kMostInBatch)},
      tools_(terms_.max_unfinished) {
  if (transport == Transport::kRing) rings_ = NewRingServer(terms_, observed);
}

std::unique_ptr<MessageSession> MessageServer::Open(const std::shared_ptr<Session>& session) {
  if (rings_ != nullptr) return NewRingSession(rings_, session, observed_);
  return NewStreamSession(terms_, tools_, session, observed_);
}

}  // namespace runloop::sequence

#include "runloop/daemon/limits.h"

#include <algorithm>

namespace runloop::daemon {

v1::Limits LimitsOf(const internal::RuntimeCore& core, int64_t max_message_bytes,
                    int64_t max_unfinished) {
  v1::Limits limits;
  limits.set_max_message_bytes(max_message_bytes);
  limits.set_max_unfinished(std::min(max_unfinished, core.bounds().session.items));
  limits.set_max_unfinished_bytes(core.bounds().session.bytes);
  limits.set_max_handles(core.max_handles());
  limits.set_max_buffers(core.buffers().bounds().session.items);
  limits.set_max_buffer_bytes(core.buffers().bounds().session.bytes);
  limits.set_max_batch(kMostInBatch);
  limits.set_max_subscriptions(internal::NotificationHub::kMaxSessionSubscriptions);
  return limits;
}

uint32_t MaxBatchOf(const PeerIdentity& peer) {
  constexpr uint32_t kMostInRoleBatch = 128;
  return peer.role.empty() ? kMostInBatch : kMostInRoleBatch;
}

}  // namespace runloop::daemon

#ifndef RUNLOOP_DAEMON_LIMITS_H_
#define RUNLOOP_DAEMON_LIMITS_H_

#include <cstdint>

#include "runloop/runtime/core.h"
#include "runloop/v1/session.pb.h"

namespace runloop::daemon {

// What the daemon and the runtime that it serves bound, as welcome and status tell it.
v1::Limits LimitsOf(const internal::RuntimeCore& core, int64_t max_message_bytes,
                    int64_t max_unfinished);

// How many dispatches a batch of this peer may have. A batch holds up what is more urgent, too, so
// a worker in a role gets smaller ones.
uint32_t MaxBatchOf(const PeerIdentity& peer);

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_LIMITS_H_

#ifndef RUNLOOP_DAEMON_NOTIFICATION_SERVICE_H_
#define RUNLOOP_DAEMON_NOTIFICATION_SERVICE_H_

#include <cstdint>
#include <memory>

#include "absl/container/flat_hash_set.h"
#include "runloop/daemon/call.h"
#include "runloop/daemon/callers.h"
#include "runloop/runtime/core.h"

namespace runloop::daemon {

// runloop.v1.Notifications: what is published, for any gRPC client, by a call that streams.
//
// Threads: the completion-queue thread, but for Stop, which any may call; who publishes only puts
// into a bounded queue. One write is in flight a call: a caller that does not read costs its queue.
// It outlives the calls and what is posted to that thread.
class NotificationService {
 public:
  // `callers` outlives it.
  NotificationService(std::shared_ptr<internal::RuntimeCore> core, const Callers& callers,
                      std::shared_ptr<CompletionThread> completion, int64_t max_message_bytes);

  std::unique_ptr<CallHandler> NewListTopics(Call& call) const;
  std::unique_ptr<CallHandler> NewSubscribe(Call& call);

  // Ends all streams once what waits for them was written, and new ones at once, with UNAVAILABLE.
  // Before the server is shut down.
  void Stop();

 private:
  class SubscribeCall;

  // Constant after construction.
  const std::shared_ptr<internal::RuntimeCore> core_;
  const Callers& callers_;
  const std::shared_ptr<CompletionThread> completion_;
  const int64_t max_message_bytes_;

  // The completion-queue thread.
  bool stopped_ = false;
  absl::flat_hash_set<SubscribeCall*> calls_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_NOTIFICATION_SERVICE_H_

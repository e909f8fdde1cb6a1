#ifndef RUNLOOP_DAEMON_CONTROL_SERVICE_H_
#define RUNLOOP_DAEMON_CONTROL_SERVICE_H_

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/daemon/call.h"
#include "runloop/daemon/callers.h"
#include "runloop/v1/control.pb.h"

namespace runloop::daemon {

// Begins a drain for `peer` and returns how long it may still take; one that has begun goes on. A
// `timeout` that is not positive stands for the host's own. Called on the completion-queue thread;
// must not wait for the runtime thread.
using DrainHook =
    std::function<absl::StatusOr<absl::Duration>(const PeerIdentity& peer, absl::Duration timeout)>;

// runloop.v1.Control: answers on the completion-queue thread and never waits for the runtime
// thread. Refuses roles. Outlives the calls and what is posted to that thread; `callers` outlives
// it.
//
// What is distrusted: the timeout. It is checked, and a day at most.
class ControlService {
 public:
  ControlService(const Callers& callers, std::shared_ptr<CompletionThread> completion,
                 DrainHook drain)
      : callers_(callers), completion_(std::move(completion)), drain_(std::move(drain)) {}

  std::unique_ptr<CallHandler> NewDrain(Call& call);

  // How the drain has ended: answers those that wait for it, now and from now on. Any thread;
  // before the server is shut down.
  void Tell(const v1::DrainResult& result);

 private:
  class DrainCall;

  absl::StatusOr<absl::Duration> BeginDrain(const grpc::ServerContextBase& context,
                                            const v1::DrainRequest& request) const;

  const Callers& callers_;
  const std::shared_ptr<CompletionThread> completion_;
  const DrainHook drain_;

  // The completion-queue thread.
  absl::flat_hash_set<DrainCall*> waiters_;
  std::optional<v1::DrainResult> result_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_CONTROL_SERVICE_H_

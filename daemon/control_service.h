#ifndef RUNLOOP_DAEMON_CONTROL_SERVICE_H_
#define RUNLOOP_DAEMON_CONTROL_SERVICE_H_

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/daemon/callers.h"
#include "runloop/v1/control.grpc.pb.h"

namespace runloop::daemon {

// Begins a drain for `peer` and returns how long it may still take; one that has begun goes on. A
// `timeout` that is not positive stands for the host's own. Called on gRPC's threads; must not wait
// for the runtime thread.
using DrainHook =
    std::function<absl::StatusOr<absl::Duration>(const PeerIdentity& peer, absl::Duration timeout)>;

// runloop.v1.Control: answers on gRPC's threads and never waits for the runtime thread. Refuses
// roles. `callers` outlives it; it outlives the server that it is registered with. Tell may be
// called on any thread.
//
// What is distrusted: the timeout. It is checked, and a day at most.
class ControlService final : public v1::Control::CallbackService {
 public:
  ControlService(const Callers& callers, DrainHook drain)
      : callers_(callers), drain_(std::move(drain)) {}

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

  // How the drain has ended: answers those that wait for it, now and from now on. Before the server
  // is shut down.
  void Tell(const v1::DrainResult& result);

 private:
  class Waiter;

  // True: it waits. False: the result is known, and is in its response.
  bool Wait(Waiter* waiter);
  // False: it is being answered.
  bool Forget(Waiter* waiter);

  absl::StatusOr<absl::Duration> BeginDrain(const grpc::CallbackServerContext& context,
                                            const v1::DrainRequest& request) const;

  const Callers& callers_;
  const DrainHook drain_;

  absl::Mutex mutex_;
  std::vector<Waiter*> waiters_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::DrainResult> result_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_CONTROL_SERVICE_H_

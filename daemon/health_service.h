#ifndef RUNLOOP_DAEMON_HEALTH_SERVICE_H_
#define RUNLOOP_DAEMON_HEALTH_SERVICE_H_

#include <grpcpp/alarm.h>

#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "grpc/health/v1/health.pb.h"
#include "runloop/daemon/call.h"
#include "runloop/runtime/core.h"

namespace runloop::daemon {

// grpc.health.v1.Health, which tells 'thread stalled' apart from 'daemon alive':
//
//   ""  and runloop.v1.Dispatcher         SERVING until the daemon drains
//   runloop.RuntimeThread and the name    SERVING while the runtime thread's loop has run, is not
//   of each operation's service           stalled and has not stopped, and the daemon does not
//   drain
//
// Another name is NOT_FOUND, or for Watch SERVICE_UNKNOWN. Anyone who got in may ask.
//
// Threads: the completion-queue thread, but for Stop, which any may call. While somebody watches,
// it looks every 200 ms for changes, once for all. It outlives the calls and what is posted to that
// thread.
class HealthService {
 public:
  HealthService(std::shared_ptr<internal::RuntimeCore> core,
                std::shared_ptr<CompletionThread> completion);

  std::unique_ptr<CallHandler> NewCheck(Call& call) const;
  std::unique_ptr<CallHandler> NewWatch(Call& call);

  // Ends all watches, and new ones at once, with UNAVAILABLE. Before the server is shut down.
  void Stop();

 private:
  class WatchCall;
  using Serving = grpc::health::v1::HealthCheckResponse::ServingStatus;

  // By a look at the runtime. SERVICE_UNKNOWN for a name that there is not.
  Serving StatusOf(std::string_view service, const Runtime::Snapshot& thread) const;
  void Add(WatchCall* watch);
  // Looks now, and again later while somebody watches.
  void Look();

  // Constant after construction.
  const std::shared_ptr<internal::RuntimeCore> core_;
  const std::shared_ptr<CompletionThread> completion_;
  const std::set<std::string, std::less<>> operation_services_;

  // The completion-queue thread.
  bool stopped_ = false;
  absl::flat_hash_set<WatchCall*> watches_;
  std::unique_ptr<grpc::Alarm> alarm_;  // set while there are watches
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_HEALTH_SERVICE_H_

#ifndef RUNLOOP_DAEMON_HEALTH_SERVICE_H_
#define RUNLOOP_DAEMON_HEALTH_SERVICE_H_

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"
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
// A request of more than 1 KiB is INVALID_ARGUMENT: gRPC keeps that of a watch while it lasts.
//
// Threads: gRPC's; and one of its own that, while somebody watches, looks every 200 ms for changes,
// once for all.
// It must outlive the server that it is registered with, and Stop must come before that one's
// shutdown.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  explicit HealthService(std::shared_ptr<internal::RuntimeCore> core);
  ~HealthService() override;

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::health::v1::HealthCheckRequest* request) override;

  // Ends all watches, and new ones at once, with UNAVAILABLE. Idempotent.
  void Stop();

 private:
  class Watcher;
  using Serving = grpc::health::v1::HealthCheckResponse::ServingStatus;

  // By a look at the runtime. SERVICE_UNKNOWN for a name that there is not.
  Serving StatusOf(std::string_view service, const Runtime::Snapshot& thread) const;
  void Serve();

  // Constant after construction.
  const std::shared_ptr<internal::RuntimeCore> core_;
  const std::set<std::string, std::less<>> operation_services_;

  absl::Mutex mutex_;
  absl::CondVar changed_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  // Each is taken out before gRPC may delete it.
  std::set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_HEALTH_SERVICE_H_

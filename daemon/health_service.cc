#include "runloop/daemon/health_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/service_names.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

constexpr std::string_view kRuntimeThread = "runloop.RuntimeThread";
constexpr absl::Duration kPeriod = absl::Milliseconds(200);
constexpr size_t kMaxRequestBytes = 1024;

grpc::Status CheckSize(const HealthCheckRequest& request) {
  if (request.ByteSizeLong() <= kMaxRequestBytes) return grpc::Status::OK;
  return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no service has so long a name");
}

}  // namespace

// One watch. The first status is written at once, later ones when they differ; one write is
// outstanding at most. Every method but the constructor and the reactions is called with the
// service's lock held.
class HealthService::Watcher final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  Watcher(HealthService& service, std::string name) : service_(service), name_(std::move(name)) {}

  const std::string& name() const { return name_; }

  void Update(Serving status) {
    if (finished_ || writing_ || (written_ && response_.status() == status)) return;
    response_.set_status(status);
    written_ = true;
    writing_ = true;
    StartWrite(&response_);
  }

  void End(const grpc::Status& status) {
    if (std::exchange(finished_, true)) return;
    Finish(status);
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&service_.mutex_);
    writing_ = false;
    if (!ok) {
      service_.watchers_.erase(this);
      End(grpc::Status::CANCELLED);
    }
  }

  void OnCancel() override {
    absl::MutexLock lock(&service_.mutex_);
    service_.watchers_.erase(this);
    End(grpc::Status::CANCELLED);
  }

  void OnDone() override { delete this; }

 private:
  HealthService& service_;
  const std::string name_;
  // Guarded by the service's lock, but for the message while it is being written.
  HealthCheckResponse response_;
  bool written_ = false;
  bool writing_ = false;
  bool finished_ = false;
};

HealthService::HealthService(std::shared_ptr<internal::RuntimeCore> core)
    : core_(std::move(core)),
      operation_services_(OperationServices(core_->operations())),
      thread_([this] { Serve(); }) {}

HealthService::~HealthService() { Stop(); }

HealthService::Serving HealthService::StatusOf(std::string_view service,
                                               const Runtime::Snapshot& thread) const {
  const bool of_daemon = service.empty() || service == kDispatcherService;
  if (!of_daemon && service != kRuntimeThread && !operation_services_.contains(service)) {
    return HealthCheckResponse::SERVICE_UNKNOWN;
  }
  if (thread.draining) return HealthCheckResponse::NOT_SERVING;
  if (of_daemon) return HealthCheckResponse::SERVING;
  using State = Runtime::Snapshot::State;
  return thread.state == State::kIdle || thread.state == State::kRunning
             ? HealthCheckResponse::SERVING
             : HealthCheckResponse::NOT_SERVING;
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const Serving status = StatusOf(request->service(), core_->GetThreadSnapshot());
  if (grpc::Status small = CheckSize(*request); !small.ok()) {
    reactor->Finish(small);
  } else if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
    reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "no service of this name"));
  } else {
    response->set_status(status);
    reactor->Finish(grpc::Status::OK);
  }
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext*, const HealthCheckRequest* request) {
  const grpc::Status small = CheckSize(*request);
  auto* const watcher = new Watcher(*this, small.ok() ? request->service() : "");
  const Serving status = StatusOf(watcher->name(), core_->GetThreadSnapshot());
  absl::MutexLock lock(&mutex_);
  if (!small.ok()) {
    watcher->End(small);
    return watcher;
  }
  if (stopped_) {
    watcher->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the daemon is stopping"));
    return watcher;
  }
  watchers_.insert(watcher);
  watcher->Update(status);
  changed_.Signal();
  return watcher;
}

void HealthService::Serve() {
  absl::MutexLock lock(&mutex_);
  while (!stopped_) {
    if (watchers_.empty()) {
      changed_.Wait(&mutex_);
      continue;
    }
    changed_.WaitWithTimeout(&mutex_, kPeriod);
    const Runtime::Snapshot thread = core_->GetThreadSnapshot();
    for (Watcher* watcher : watchers_) watcher->Update(StatusOf(watcher->name(), thread));
  }
  while (!watchers_.empty()) {
    Watcher* const watcher = *watchers_.begin();
    watchers_.erase(watchers_.begin());
    watcher->End(ToGrpcStatus(MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING,
                                        "the daemon is stopping")));
  }
}

void HealthService::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    changed_.Signal();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace runloop::daemon

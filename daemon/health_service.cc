#include "runloop/daemon/health_service.h"

#include <utility>

#include "absl/time/clock.h"
#include "runloop/daemon/request_call.h"
#include "runloop/daemon/service_names.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

constexpr std::string_view kRuntimeThread = "runloop.RuntimeThread";
constexpr absl::Duration kPeriod = absl::Milliseconds(200);

absl::Status Stopping() {
  return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING,
                   "the daemon is stopping");
}

}  // namespace

// One watch. The first status is written at once, later ones when they differ.
class HealthService::WatchCall final : public RequestCall<HealthCheckRequest> {
 public:
  WatchCall(HealthService& service, Call& call)
      : RequestCall<HealthCheckRequest>(call), service_(service) {}
  ~WatchCall() override { service_.watches_.erase(this); }

  const std::string& name() const { return name_; }

  void Update(Serving status) {
    if (writing_ || (written_ && response_.status() == status)) return;
    response_.set_status(status);
    written_ = true;
    writing_ = true;
    call().Write(SerializeToBytes(response_));
  }

  // Once what is being written has been.
  void End(absl::Status status) {
    ending_ = std::move(status);
    if (!writing_) call().Finish(ending_);
  }

 private:
  void OnRequest(const HealthCheckRequest& request) override {
    name_ = request.service();
    service_.Add(this);
  }
  void OnWritten(bool) override {
    writing_ = false;
    if (!ending_.ok()) call().Finish(ending_);
  }
  void OnGone() override { service_.watches_.erase(this); }

  HealthService& service_;
  std::string name_;
  HealthCheckResponse response_;
  bool written_ = false;
  bool writing_ = false;
  absl::Status ending_;
};

HealthService::HealthService(std::shared_ptr<internal::RuntimeCore> core,
                             std::shared_ptr<CompletionThread> completion)
    : core_(std::move(core)),
      completion_(std::move(completion)),
      operation_services_(OperationServices(core_->operations())) {}

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

std::unique_ptr<CallHandler> HealthService::NewCheck(Call& call) const {
  return NewRequestCall<HealthCheckRequest, HealthCheckResponse>(
      call, [this](Call&, const HealthCheckRequest& request, HealthCheckResponse& response) {
        const Serving status = StatusOf(request.service(), core_->GetThreadSnapshot());
        if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
          return absl::NotFoundError("no service of this name");
        }
        response.set_status(status);
        return absl::OkStatus();
      });
}

std::unique_ptr<CallHandler> HealthService::NewWatch(Call& call) {
  return std::make_unique<WatchCall>(*this, call);
}

void HealthService::Add(WatchCall* watch) {
  if (stopped_) {
    watch->End(Stopping());
    return;
  }
  watch->Update(StatusOf(watch->name(), core_->GetThreadSnapshot()));
  watches_.insert(watch);
  if (alarm_ == nullptr) Look();
}

void HealthService::Look() {
  alarm_ = nullptr;
  if (watches_.empty()) return;
  const Runtime::Snapshot thread = core_->GetThreadSnapshot();
  for (WatchCall* const watch : watches_) watch->Update(StatusOf(watch->name(), thread));
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(absl::ToChronoTime(absl::Now() + kPeriod),
              [this, completion = completion_](bool due) {
                if (due) completion->Post([this] { Look(); });
              });
}

void HealthService::Stop() {
  completion_->Post([this] {
    stopped_ = true;
    for (WatchCall* const watch : watches_) watch->End(Stopping());
    watches_.clear();
  });
}

}  // namespace runloop::daemon

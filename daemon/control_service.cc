#include "runloop/daemon/control_service.h"

#include <algorithm>

#include "runloop/daemon/durations.h"
#include "runloop/daemon/request_call.h"

namespace runloop::daemon {
namespace {

constexpr absl::Duration kMaxDrainTimeout = absl::Hours(24);

}  // namespace

class ControlService::DrainCall final : public RequestCall<v1::DrainRequest> {
 public:
  DrainCall(ControlService& service, Call& call)
      : RequestCall<v1::DrainRequest>(call), service_(service) {}
  ~DrainCall() override { service_.waiters_.erase(this); }

  void Answer(const std::optional<v1::DrainResult>& result) {
    if (result) *response_.mutable_result() = *result;
    call().WriteAndFinish(SerializeToBytes(response_));
  }

 private:
  void OnRequest(const v1::DrainRequest& request) override {
    const absl::StatusOr<absl::Duration> left = service_.BeginDrain(call().context(), request);
    if (!left.ok()) {
      call().Finish(left.status());
      return;
    }
    *response_.mutable_left() = ToProto(*left);
    if (!request.wait()) {
      Answer(std::nullopt);
    } else if (service_.result_) {
      Answer(service_.result_);
    } else {
      service_.waiters_.insert(this);
    }
  }

  ControlService& service_;
  v1::DrainResponse response_;
};

std::unique_ptr<CallHandler> ControlService::NewDrain(Call& call) {
  return std::make_unique<DrainCall>(*this, call);
}

void ControlService::Tell(const v1::DrainResult& result) {
  completion_->Post([this, result] {
    result_ = result;
    for (DrainCall* const waiter : waiters_) waiter->Answer(result_);
    waiters_.clear();
  });
}

absl::StatusOr<absl::Duration> ControlService::BeginDrain(const grpc::ServerContextBase& context,
                                                          const v1::DrainRequest& request) const {
  if (absl::Status allowed = callers_.CheckMainSocket(context); !allowed.ok()) return allowed;
  const absl::StatusOr<std::shared_ptr<Connection>> connection = callers_.ConnectionOf(context);
  if (!connection.ok()) return connection.status();
  const absl::StatusOr<absl::Duration> timeout = FromProto(request.timeout());
  if (!timeout.ok()) return timeout.status();
  return drain_((*connection)->peer(), std::min(*timeout, kMaxDrainTimeout));
}

}  // namespace runloop::daemon

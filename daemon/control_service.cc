#include "runloop/daemon/control_service.h"

#include <algorithm>
#include <memory>

#include "runloop/daemon/durations.h"
#include "runloop/ipc/status_codec.h"

namespace runloop::daemon {
namespace {

constexpr absl::Duration kMaxDrainTimeout = absl::Hours(24);

}  // namespace

// A call that is answered when the drain has ended.
class ControlService::Waiter final : public grpc::ServerUnaryReactor {
 public:
  Waiter(ControlService& service, v1::DrainResponse& response)
      : service_(service), response_(response) {}

  void Tell(const v1::DrainResult& result) { *response_.mutable_result() = result; }

 private:
  void OnCancel() override {
    if (service_.Forget(this)) Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override { delete this; }

  ControlService& service_;
  v1::DrainResponse& response_;
};

bool ControlService::Wait(Waiter* waiter) {
  absl::MutexLock lock(&mutex_);
  if (result_) {
    waiter->Tell(*result_);
    return false;
  }
  waiters_.push_back(waiter);
  return true;
}

bool ControlService::Forget(Waiter* waiter) {
  absl::MutexLock lock(&mutex_);
  return std::erase(waiters_, waiter) != 0;
}

void ControlService::Tell(const v1::DrainResult& result) {
  std::vector<Waiter*> waiters;
  {
    absl::MutexLock lock(&mutex_);
    result_ = result;
    waiters.swap(waiters_);
  }
  for (Waiter* const waiter : waiters) {
    waiter->Tell(result);
    waiter->Finish(grpc::Status::OK);
  }
}

grpc::ServerUnaryReactor* ControlService::Drain(grpc::CallbackServerContext* context,
                                                const v1::DrainRequest* request,
                                                v1::DrainResponse* response) {
  const absl::StatusOr<absl::Duration> left = BeginDrain(*context, *request);
  if (left.ok()) *response->mutable_left() = ToProto(*left);
  if (left.ok() && request->wait()) {
    auto* const waiter = new Waiter(*this, *response);
    if (!Wait(waiter)) waiter->Finish(grpc::Status::OK);
    return waiter;
  }
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(left.status()));
  return reactor;
}

absl::StatusOr<absl::Duration> ControlService::BeginDrain(
    const grpc::CallbackServerContext& context, const v1::DrainRequest& request) const {
  if (absl::Status allowed = callers_.CheckMainSocket(context); !allowed.ok()) return allowed;
  const absl::StatusOr<std::shared_ptr<Connection>> connection = callers_.ConnectionOf(context);
  if (!connection.ok()) return connection.status();
  const absl::StatusOr<absl::Duration> timeout = FromProto(request.timeout());
  if (!timeout.ok()) return timeout.status();
  return drain_((*connection)->peer(), std::min(*timeout, kMaxDrainTimeout));
}

}  // namespace runloop::daemon

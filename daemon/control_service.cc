#include "runloop/daemon/control_service.h"

#include <algorithm>
#include <memory>

#include "runloop/daemon/durations.h"
#include "runloop/ipc/status_codec.h"

namespace runloop::daemon {
namespace {

constexpr absl::Duration kMaxDrainTimeout = absl::Hours(24);

}  // namespace

grpc::ServerUnaryReactor* ControlService::Drain(grpc::CallbackServerContext* context,
                                                const v1::DrainRequest* request,
                                                v1::DrainResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::StatusOr<absl::Duration> left = BeginDrain(*context, *request);
  if (left.ok()) *response->mutable_left() = ToProto(*left);
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

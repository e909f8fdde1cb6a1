#include "runloop/daemon/dispatcher_service.h"

#include <algorithm>
#include <utility>

#include "runloop/daemon/durations.h"
#include "runloop/daemon/operation_service.h"
#include "runloop/daemon/unary_call.h"
#include "runloop/ipc/chain_codec.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop::daemon {
namespace {

// Room for the fields around a reply.
constexpr int64_t kEnvelopeBytes = 64;

}  // namespace

// The RPC's side of a UnaryCall. Deletes itself when gRPC is done with it, which is not before the
// answer was given; until then `response` is valid.
class DispatcherService::Call final : public grpc::ServerUnaryReactor {
 public:
  explicit Call(const absl::Status& refusal) { Finish(ToGrpcStatus(refusal)); }

  Call(const DispatcherService& service, internal::RuntimeCore::Call call, bool watch_deadline,
       v1::DispatchResponse* response)
      : operation_(call.operation),
        max_message_bytes_(service.max_message_bytes_),
        response_(response),
        call_(std::make_shared<UnaryCall>(service.core_, service.replies_,
                                          [this](UnaryCall::Outcome outcome, bool admitted) {
                                            Answer(std::move(outcome), admitted);
                                          })) {
    call_->Start(std::move(call), watch_deadline);
  }

  void OnCancel() override {
    if (call_ != nullptr) call_->Cancel();
  }

  void OnDone() override {
    if (call_ != nullptr) call_->Join();
    delete this;
  }

 private:
  void Answer(UnaryCall::Outcome outcome, bool admitted) {
    if (outcome.ok()) {
      const size_t size = (*outcome)->ByteSizeLong();
      const int64_t limit = std::max<int64_t>(max_message_bytes_ - kEnvelopeBytes, 0);
      if (size <= static_cast<size_t>(limit)) {
        (*outcome)->SerializeToString(response_->mutable_reply());
      } else {
        outcome = ReplyTooLarge(operation_->name(), size, limit);
      }
    }
    if (!outcome.ok()) {
      if (!admitted) {
        Finish(ToGrpcStatus(outcome.status()));
        return;
      }
      *response_->mutable_status() = runloop::ToProto(outcome.status());
    }
    Finish(grpc::Status::OK);
  }

  const Operation* const operation_ = nullptr;
  const int64_t max_message_bytes_ = 0;
  v1::DispatchResponse* const response_ = nullptr;
  const std::shared_ptr<UnaryCall> call_;
};

grpc::ServerUnaryReactor* DispatcherService::Dispatch(grpc::CallbackServerContext* context,
                                                      const v1::DispatchRequest* request,
                                                      v1::DispatchResponse* response) {
  const absl::StatusOr<const Operation*> operation = core_->FindOperation(request->operation());
  if (!operation.ok()) return new Call(operation.status());
  absl::StatusOr<std::unique_ptr<google::protobuf::Message>> parsed =
      (*operation)->ParseRequest(request->request());
  if (!parsed.ok()) return new Call(parsed.status());
  absl::Duration timeout = kDefaultTimeout;
  if (request->has_timeout()) {
    const absl::StatusOr<absl::Duration> asked = FromProto(request->timeout());
    if (!asked.ok()) return new Call(asked.status());
    if (*asked > absl::ZeroDuration()) timeout = *asked;
  }
  absl::StatusOr<internal::Chain> chain = ReadChain(request->chain());
  if (!chain.ok()) return new Call(chain.status());
  if (absl::Status key = CheckCoalesceKey(request->coalesce_key()); !key.ok()) return new Call(key);
  absl::StatusOr<std::shared_ptr<runloop::Session>> session = callers_.SessionOf(*context);
  if (!session.ok()) return new Call(session.status());
  const CallDeadline deadline = CallDeadline::Of(*context, timeout, core_->clock());
  return new Call(*this,
                  {.operation = *operation,
                   .request = *std::move(parsed),
                   .request_bytes = request->request().size(),
                   .session = *std::move(session),
                   .deadline = deadline.start_by,
                   .coalesce_key = request->coalesce_key(),
                   .chain = *std::move(chain)},
                  deadline.ends_before_rpc, response);
}

}  // namespace runloop::daemon

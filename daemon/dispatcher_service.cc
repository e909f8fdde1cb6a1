#include "runloop/daemon/dispatcher_service.h"

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>

#include <algorithm>
#include <utility>

#include "runloop/daemon/durations.h"
#include "runloop/daemon/operation_service.h"
#include "runloop/daemon/request_charge.h"
#include "runloop/daemon/unary_call.h"
#include "runloop/ipc/chain_codec.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop::daemon {
namespace {

// Room for the fields around a reply.
constexpr int64_t kEnvelopeBytes = 64;

// Uses the bytes up: gRPC would keep them for as long as the call lasts.
absl::Status Parse(grpc::ByteBuffer& bytes, const WorkBounds& bounds,
                   v1::DispatchRequest& request) {
  const absl::StatusOr<size_t> charge = ChargeOf(bytes, *v1::DispatchRequest::descriptor(), bounds);
  if (!charge.ok()) return charge.status();
  {
    grpc::ProtoBufferReader reader(&bytes);
    if (!reader.status().ok() || !request.ParseFromZeroCopyStream(&reader)) {
      return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                       "the message is no valid DispatchRequest");
    }
  }
  bytes.Clear();
  return absl::OkStatus();
}

}  // namespace

// The RPC's side of a UnaryCall. Deletes itself when gRPC is done with it, which is not before the
// answer was given; until then `response` is valid.
class DispatcherService::Call final : public grpc::ServerUnaryReactor {
 public:
  explicit Call(const absl::Status& refusal) { Finish(ToGrpcStatus(refusal)); }

  Call(const DispatcherService& service, internal::RuntimeCore::Call call, bool watch_deadline,
       grpc::ByteBuffer* response)
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
    v1::DispatchResponse response;
    if (outcome.ok()) {
      const size_t size = (*outcome)->ByteSizeLong();
      const int64_t limit = std::max<int64_t>(max_message_bytes_ - kEnvelopeBytes, 0);
      if (size <= static_cast<size_t>(limit)) {
        (*outcome)->SerializeToString(response.mutable_reply());
      } else {
        outcome = ReplyTooLarge(operation_->name(), size, limit);
      }
    }
    if (!outcome.ok()) {
      if (!admitted) {
        Finish(ToGrpcStatus(outcome.status()));
        return;
      }
      *response.mutable_status() = runloop::ToProto(outcome.status());
    }
    bool owned = true;
    Finish(grpc::GenericSerialize<grpc::ProtoBufferWriter, google::protobuf::Message>(
        response, response_, &owned));
  }

  const Operation* const operation_ = nullptr;
  const int64_t max_message_bytes_ = 0;
  grpc::ByteBuffer* const response_ = nullptr;
  const std::shared_ptr<UnaryCall> call_;
};

grpc::ServerUnaryReactor* DispatcherService::Dispatch(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* bytes,
                                                      grpc::ByteBuffer* response) {
  v1::DispatchRequest request;
  // gRPC owns them, and nobody else reads them.
  if (absl::Status parsed = Parse(const_cast<grpc::ByteBuffer&>(*bytes), core_->bounds(), request);
      !parsed.ok()) {
    return new Call(parsed);
  }
  const absl::StatusOr<const Operation*> operation = core_->FindOperation(request.operation());
  if (!operation.ok()) return new Call(operation.status());
  const absl::StatusOr<size_t> charge =
      ChargeOf(request.request(), *(*operation)->method().input_type(), core_->bounds());
  if (!charge.ok()) return new Call(charge.status());
  absl::StatusOr<std::unique_ptr<google::protobuf::Message>> parsed =
      (*operation)->ParseRequest(request.request());
  if (!parsed.ok()) return new Call(parsed.status());
  absl::Duration timeout = kDefaultTimeout;
  if (request.has_timeout()) {
    const absl::StatusOr<absl::Duration> asked = FromProto(request.timeout());
    if (!asked.ok()) return new Call(asked.status());
    if (*asked > absl::ZeroDuration()) timeout = *asked;
  }
  absl::StatusOr<internal::Chain> chain = ReadChain(request.chain());
  if (!chain.ok()) return new Call(chain.status());
  if (absl::Status key = CheckCoalesceKey(request.coalesce_key()); !key.ok()) return new Call(key);
  absl::StatusOr<std::shared_ptr<runloop::Session>> session = callers_.SessionOf(*context);
  if (!session.ok()) return new Call(session.status());
  const CallDeadline deadline = CallDeadline::Of(*context, timeout, core_->clock());
  return new Call(*this,
                  {.operation = *operation,
                   .request = *std::move(parsed),
                   .request_bytes = *charge,
                   .session = *std::move(session),
                   .deadline = deadline.start_by,
                   .coalesce_key = request.coalesce_key(),
                   .chain = *std::move(chain)},
                  deadline.ends_before_rpc, response);
}

}  // namespace runloop::daemon

#include "runloop/daemon/operation_service.h"

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runloop/daemon/request_charge.h"
#include "runloop/daemon/unary_call.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop::daemon {
namespace {

using google::protobuf::Message;

// `bytes` come from a peer: nothing but the parser reads them, and ChargeOf before it.
absl::StatusOr<std::unique_ptr<Message>> Parse(const Operation& operation,
                                               grpc::ByteBuffer& bytes) {
  std::unique_ptr<Message> request = operation.NewRequest();
  grpc::ProtoBufferReader reader(&bytes);
  if (reader.status().ok() && request->ParseFromZeroCopyStream(&reader)) return request;
  return MakeError(
      absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
      absl::StrCat("the request of ", operation.name(), " is no valid ", request->GetTypeName()),
      {{"operation", operation.name()}});
}

absl::StatusOr<grpc::ByteBuffer> Serialize(const Message& reply) {
  grpc::ByteBuffer bytes;
  bool owned = true;
  const grpc::Status serialized =
      grpc::GenericSerialize<grpc::ProtoBufferWriter, Message>(reply, &bytes, &owned);
  if (!serialized.ok()) return FromGrpcStatus(serialized);
  return bytes;
}

}  // namespace

CallDeadline CallDeadline::Of(const grpc::ServerContextBase& context,
                              std::optional<absl::Duration> wanted, const Clock& clock) {
  const auto deadline = context.deadline();
  const bool endless = deadline == std::chrono::system_clock::time_point::max();
  const absl::Duration rpc =
      endless ? absl::InfiniteDuration() : absl::FromChrono(deadline) - absl::Now();
  const absl::Duration own = wanted.value_or(endless ? kDefaultTimeout : absl::InfiniteDuration());
  return {.start_by = clock.Now() + std::min(rpc, own), .ends_before_rpc = own < rpc};
}

absl::Status CheckCoalesceKey(const std::string& key) {
  constexpr size_t kLongest = 128;
  if (key.size() <= kLongest) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                   absl::StrCat("a coalesce_key of ", key.size(), " bytes; at most ", kLongest));
}

absl::Status ReplyTooLarge(const std::string& operation, size_t size, int64_t limit) {
  return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_MESSAGE_TOO_LARGE,
                   absl::StrCat(operation, " ran, but its reply of ", size,
                                " bytes is larger than a message may be (", limit,
                                "): raise --max_message_bytes"),
                   {{"operation", operation}, {"limit", absl::StrCat(limit)}});
}

// The RPC's side of a UnaryCall: reads one message, answers with one. Deletes itself when gRPC is
// done with it.
class OperationService::Call final : public grpc::ServerGenericBidiReactor {
 public:
  // An RPC that is refused before its request was looked at.
  explicit Call(const absl::Status& refusal) { Finish(ToGrpcStatus(refusal)); }

  Call(const OperationService& service, const Operation& operation,
       std::shared_ptr<Session> session, const CallDeadline& deadline)
      : operation_(&operation),
        session_(std::move(session)),
        deadline_(deadline),
        max_message_bytes_(service.max_message_bytes_),
        bounds_(service.core_->bounds()),
        call_(std::make_shared<UnaryCall>(
            service.core_, service.replies_,
            [this](UnaryCall::Outcome outcome, bool) { Answer(std::move(outcome)); })) {
    StartRead(&bytes_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      call_->Refuse(
          MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                    absl::StrCat("the call of ", operation_->name(), " ended without a request")));
      return;
    }
    const absl::StatusOr<size_t> charge =
        ChargeOf(bytes_, *operation_->method().input_type(), bounds_);
    if (!charge.ok()) {
      call_->Refuse(charge.status());
      return;
    }
    absl::StatusOr<std::unique_ptr<Message>> request = Parse(*operation_, bytes_);
    bytes_.Clear();
    if (!request.ok()) {
      call_->Refuse(request.status());
      return;
    }
    call_->Start({.operation = operation_,
                  .request = *std::move(request),
                  .request_bytes = *charge,
                  .session = std::move(session_),
                  .deadline = deadline_.start_by},
                 deadline_.ends_before_rpc);
  }

  void OnCancel() override {
    if (call_ != nullptr) call_->Cancel();
  }

  void OnDone() override {
    if (call_ != nullptr) call_->Join();
    delete this;
  }

 private:
  void Answer(UnaryCall::Outcome outcome) {
    if (!outcome.ok()) {
      Finish(ToGrpcStatus(outcome.status()));
      return;
    }
    const size_t size = (*outcome)->ByteSizeLong();
    if (size > static_cast<size_t>(max_message_bytes_)) {
      Finish(ToGrpcStatus(ReplyTooLarge(operation_->name(), size, max_message_bytes_)));
      return;
    }
    absl::StatusOr<grpc::ByteBuffer> reply = Serialize(**outcome);
    if (!reply.ok()) {
      Finish(ToGrpcStatus(reply.status()));
      return;
    }
    reply_ = *std::move(reply);
    StartWriteAndFinish(&reply_, grpc::WriteOptions(), grpc::Status::OK);
  }

  const Operation* const operation_ = nullptr;
  std::shared_ptr<Session> session_;
  const CallDeadline deadline_;
  const int64_t max_message_bytes_ = 0;
  const WorkBounds bounds_;
  grpc::ByteBuffer bytes_;
  grpc::ByteBuffer reply_;
  const std::shared_ptr<UnaryCall> call_;
};

grpc::ServerGenericBidiReactor* OperationService::CreateReactor(
    grpc::GenericCallbackServerContext* context) {
  std::string_view name = context->method();
  if (name.substr(0, 1) == "/") name.remove_prefix(1);
  const absl::StatusOr<const Operation*> operation = core_->FindOperation(name);
  if (!operation.ok()) return new Call(operation.status());
  absl::StatusOr<std::shared_ptr<Session>> session = callers_.SessionOf(*context);
  if (!session.ok()) return new Call(session.status());
  return new Call(*this, **operation, *std::move(session),
                  CallDeadline::Of(*context, std::nullopt, core_->clock()));
}

}  // namespace runloop::daemon

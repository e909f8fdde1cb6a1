#include "runloop/daemon/operation_service.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/byte_buffer.h"
#include "runloop/daemon/durations.h"
#include "runloop/daemon/invocation_call.h"
#include "runloop/daemon/request_charge.h"
#include "runloop/ipc/chain_codec.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime_context.h"
#include "runloop/v1/dispatcher.pb.h"

namespace runloop::daemon {
namespace {

using google::protobuf::Message;

// Room for the fields around a reply.
constexpr int64_t kEnvelopeBytes = 64;

// The caller's W3C trace context; none if its header is invalid, as the standard asks for.
std::string TraceParentOf(const grpc::ServerContextBase& context) {
  const auto header = context.client_metadata().find("traceparent");
  if (header == context.client_metadata().end()) return "";
  const std::string_view text(header->second.data(), header->second.size());
  return internal::IsTraceParent(text) ? std::string(text) : "";
}

}  // namespace

absl::Status ReplyTooLarge(const std::string& operation, size_t size, int64_t limit) {
  return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_MESSAGE_TOO_LARGE,
                   absl::StrCat(operation, " ran, but its reply of ", size,
                                " bytes is larger than a message may be (", limit,
                                "): raise --max_message_bytes"),
                   {{"operation", operation}, {"limit", absl::StrCat(limit)}});
}

class OperationService::OperationCall final : public InvocationCall {
 public:
  OperationCall(const OperationService& service, Call& call)
      : InvocationCall(service.core_, call), service_(service) {}

 private:
  absl::Status Prepare() override {
    const absl::StatusOr<const Operation*> found = core().FindOperation(call().method());
    if (!found.ok()) return found.status();
    operation_ = *found;
    absl::StatusOr<std::shared_ptr<Session>> session =
        service_.callers_.SessionOf(call().context());
    if (!session.ok()) return session.status();
    session_ = *std::move(session);
    return absl::OkStatus();
  }

  absl::Status OnRequest(grpc::ByteBuffer& bytes) override {
    const absl::StatusOr<size_t> charge =
        ChargeOf(bytes, *operation_->method().input_type(), core().bounds());
    if (!charge.ok()) return charge.status();
    std::unique_ptr<Message> request = operation_->NewRequest();
    if (!ParseBytes(bytes, *request)) {
      return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                       absl::StrCat("the request of ", operation_->name(), " is no valid ",
                                    request->GetTypeName()),
                       {{"operation", operation_->name()}});
    }
    return Dispatch({.operation = operation_,
                     .request = std::move(request),
                     .request_bytes = *charge,
                     .session = std::move(session_),
                     .trace_parent = internal::KeepTraceParent(TraceParentOf(call().context()))},
                    CallDeadline::Of(call().context(), std::nullopt, core().clock()));
  }

  void Answer(Outcome outcome, bool) override {
    if (outcome.ok()) {
      const size_t size = (*outcome)->ByteSizeLong();
      const int64_t limit = service_.max_message_bytes_;
      if (size <= static_cast<size_t>(limit)) {
        call().WriteAndFinish(SerializeToBytes(**outcome));
        return;
      }
      outcome = ReplyTooLarge(operation_->name(), size, limit);
    }
    call().Finish(outcome.status());
  }

  const OperationService& service_;
  const Operation* operation_ = nullptr;
  std::shared_ptr<Session> session_;  // until it is dispatched
};

class OperationService::DispatchCall final : public InvocationCall {
 public:
  DispatchCall(const OperationService& service, Call& call)
      : InvocationCall(service.core_, call), service_(service) {}

 private:
  absl::Status OnRequest(grpc::ByteBuffer& bytes) override {
    v1::DispatchRequest request;
    if (absl::Status parsed = Parse(bytes, request); !parsed.ok()) return parsed;
    const absl::StatusOr<const Operation*> found = core().FindOperation(request.operation());
    if (!found.ok()) return found.status();
    operation_ = *found;
    const absl::StatusOr<size_t> charge =
        ChargeOf(request.request(), *operation_->method().input_type(), core().bounds());
    if (!charge.ok()) return charge.status();
    std::unique_ptr<Message> parsed = operation_->NewRequest();
    if (absl::Status status = operation_->ParseRequest(request.request(), *parsed); !status.ok()) {
      return status;
    }
    absl::Duration timeout = kDefaultTimeout;
    if (request.has_timeout()) {
      const absl::StatusOr<absl::Duration> asked = FromProto(request.timeout());
      if (!asked.ok()) return asked.status();
      if (*asked > absl::ZeroDuration()) timeout = *asked;
    }
    const absl::StatusOr<absl::Duration> delay = FromProto(request.delay(), "delay");
    if (!delay.ok()) return delay.status();
    absl::StatusOr<internal::Chain> chain = ReadChain(request.chain());
    if (!chain.ok()) return chain.status();
    if (absl::Status key = internal::CheckCoalesceKey(request.coalesce_key()); !key.ok())
      return key;
    std::string trace_parent = request.trace_parent();
    if (absl::Status trace = internal::CheckTraceParent(trace_parent); !trace.ok()) return trace;
    if (trace_parent.empty()) trace_parent = TraceParentOf(call().context());
    absl::StatusOr<std::shared_ptr<Session>> session =
        service_.callers_.SessionOf(call().context());
    if (!session.ok()) return session.status();
    CallSite call_site;
    if (request.has_call_site()) {
      const v1::CallSite& told = request.call_site();
      call_site =
          CallSite((*session)->call_sites().Keep(told.file(), told.line(), told.function()));
    }
    return Dispatch({.operation = operation_,
                     .request = std::move(parsed),
                     .request_bytes = *charge,
                     .session = *std::move(session),
                     .delay = *delay,
                     .coalesce_key = request.coalesce_key(),
                     .chain = *std::move(chain),
                     .call_site = call_site,
                     .trace_parent = internal::KeepTraceParent(std::move(trace_parent))},
                    CallDeadline::Of(call().context(), timeout, core().clock()));
  }

  absl::Status Parse(grpc::ByteBuffer& bytes, v1::DispatchRequest& request) {
    const absl::StatusOr<size_t> charge =
        ChargeOf(bytes, *v1::DispatchRequest::descriptor(), core().bounds());
    if (!charge.ok()) return charge.status();
    if (ParseBytes(bytes, request)) return absl::OkStatus();
    return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                     "the message is no valid DispatchRequest");
  }

  void Answer(Outcome outcome, bool admitted) override {
    if (!outcome.ok() && !admitted) {
      call().Finish(outcome.status());
      return;
    }
    v1::DispatchResponse response;
    if (outcome.ok()) {
      const size_t size = (*outcome)->ByteSizeLong();
      const int64_t limit = std::max<int64_t>(service_.max_message_bytes_ - kEnvelopeBytes, 0);
      if (size <= static_cast<size_t>(limit)) {
        (*outcome)->SerializeToString(response.mutable_reply());
      } else {
        outcome = ReplyTooLarge(operation_->name(), size, limit);
      }
    }
    if (!outcome.ok()) *response.mutable_status() = runloop::ToProto(outcome.status());
    call().WriteAndFinish(SerializeToBytes(response));
  }

  const OperationService& service_;
  const Operation* operation_ = nullptr;
};

std::unique_ptr<CallHandler> OperationService::NewOperation(Call& call) const {
  return std::make_unique<OperationCall>(*this, call);
}

std::unique_ptr<CallHandler> OperationService::NewDispatch(Call& call) const {
  return std::make_unique<DispatchCall>(*this, call);
}

}  // namespace runloop::daemon

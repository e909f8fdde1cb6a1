#include "runloop/client/check_call.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

constexpr size_t kLongestName = 512;

// What can be a method's full name. Nothing else may get into a message, where text has to be
// UTF-8.
bool IsOperationName(const std::string& name) {
  return name.size() <= kLongestName && std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '_' || c == '.' || c == '/';
         });
}

bool IsNamed(const google::protobuf::MethodDescriptor& method, std::string_view operation) {
  const std::string& service = method.service()->full_name();
  const std::string& name = method.name();
  return operation.size() == service.size() + 1 + name.size() &&
         operation.substr(0, service.size()) == service && operation[service.size()] == '/' &&
         operation.substr(service.size() + 1) == name;
}

// The operation, if its generated code is linked in here too; else null, and the daemon has to tell
// what it takes.
const google::protobuf::MethodDescriptor* MethodOf(const std::string& operation) {
  // A flood asks for the same one again and again.
  thread_local const google::protobuf::MethodDescriptor* last = nullptr;
  if (last != nullptr && IsNamed(*last, operation)) return last;
  std::string name = operation;
  std::replace(name.begin(), name.end(), '/', '.');
  const google::protobuf::MethodDescriptor* method =
      google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(name);
  if (method != nullptr) last = method;
  return method;
}

absl::Status Invalid(const std::string& message) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST, message);
}

}  // namespace

absl::Status CheckCall(const DispatchTarget::Call& call) {
  const google::protobuf::MethodDescriptor* const method = MethodOf(call.operation);
  if (method == nullptr && !IsOperationName(call.operation)) {
    return MakeError(absl::StatusCode::kUnimplemented, v1::ERROR_REASON_UNKNOWN_OPERATION,
                     "no operation can have this name; write package.Service/Method");
  }
  if (method != nullptr) {
    const google::protobuf::Descriptor* const takes = method->input_type();
    if (takes != call.request->GetDescriptor() &&
        takes->full_name() != call.request->GetTypeName()) {
      return Invalid(absl::StrCat(call.operation, " takes a ", takes->full_name(), ", not a ",
                                  call.request->GetTypeName()));
    }
    if (call.reply_type != nullptr &&
        call.reply_type->full_name() != method->output_type()->full_name()) {
      return Invalid(absl::StrCat(call.operation, " replies with a ",
                                  method->output_type()->full_name(), ", not a ",
                                  call.reply_type->full_name()));
    }
  }
  if (!call.request->IsInitialized()) {
    return Invalid(absl::StrCat("required fields of the request are not set: ",
                                call.request->InitializationErrorString()));
  }
  if (absl::Status key = CheckCoalesceKey(call.coalesce_key); !key.ok()) return key;
  if (absl::Status trace = CheckTraceParent(TextOf(call.trace_parent)); !trace.ok()) return trace;
  if (call.timeout <= absl::ZeroDuration()) return Expired();
  return absl::OkStatus();
}

absl::Status Expired() {
  return MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_EXPIRED,
                   "the deadline passed before the operation started; it never runs");
}

}  // namespace runloop::internal

#include "runloop/runtime/trace_context.h"

#include <charconv>

#include "absl/strings/str_format.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

constexpr size_t kSize = 55;
constexpr size_t kTraceId = 3, kTraceIdSize = 32;
constexpr size_t kParentId = 36, kParentIdSize = 16;
constexpr size_t kFlags = 53, kFlagsSize = 2;

bool IsHex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}
bool IsId(std::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != std::string_view::npos;
}

}  // namespace

bool IsTraceParent(std::string_view text) {
  return text.size() == kSize && text.substr(0, kTraceId) == "00-" &&
         IsId(text.substr(kTraceId, kTraceIdSize)) && text[kParentId - 1] == '-' &&
         IsId(text.substr(kParentId, kParentIdSize)) && text[kFlags - 1] == '-' &&
         IsHex(text.substr(kFlags, kFlagsSize));
}

absl::Status CheckTraceParent(std::string_view text) {
  if (text.empty() || IsTraceParent(text)) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                   "the trace_parent is no traceparent of W3C trace context: 00-, 32, 16 and 2 "
                   "hexadecimal digits in lower case with - between them, and neither id zero");
}

std::string_view TraceIdOf(std::string_view trace_parent) {
  return trace_parent.empty() ? trace_parent : trace_parent.substr(kTraceId, kTraceIdSize);
}

std::array<uint64_t, 2> PackTraceId(std::string_view trace_parent) {
  std::array<uint64_t, 2> id = {};
  const std::string_view digits = TraceIdOf(trace_parent);
  if (digits.empty()) return id;
  constexpr size_t kHalf = kTraceIdSize / 2;
  for (size_t i = 0; i < id.size(); ++i) {
    const char* const begin = digits.data() + i * kHalf;
    std::from_chars(begin, begin + kHalf, id[i], 16);
  }
  return id;
}

std::string UnpackTraceId(const std::array<uint64_t, 2>& id) {
  return id[0] == 0 && id[1] == 0 ? "" : absl::StrFormat("%016x%016x", id[0], id[1]);
}

TraceParent TraceParentOr(const std::string& given) {
  if (!given.empty()) return KeepTraceParent(given);
  const RuntimeCore* const core = RuntimeCore::OfThisThread();
  const OperationTask* const handled = core != nullptr ? core->handled() : nullptr;
  return handled != nullptr ? Copy(handled->trace_parent) : nullptr;
}

}  // namespace runloop::internal

#include "runloop/tests/sequence/outcome_text.h"

#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runloop/runtime/error.h"

namespace runloop::sequence {

std::string InWords(const absl::Status& status) {
  std::string text = absl::StatusCodeToString(status.code());
  if (status.ok()) return text;
  const v1::ErrorReason reason = ReasonOf(status);
  if (reason == v1::ERROR_REASON_UNSPECIFIED) return text;
  const std::string name = v1::ErrorReason_Name(reason);
  absl::StrAppend(&text, " ", absl::StripPrefix(name, "ERROR_REASON_"));
  if (reason != v1::ERROR_REASON_QUEUE_FULL) return text;
  v1::ErrorInfo info;
  const absl::optional<absl::Cord> payload =
      status.GetPayload("type.googleapis.com/google.rpc.ErrorInfo");
  if (payload.has_value() && info.ParseFromString(std::string(*payload))) {
    absl::StrAppend(&text, ": ", info.metadata().at("bound"), ", ", info.metadata().at("limit"));
  }
  return text;
}

}  // namespace runloop::sequence

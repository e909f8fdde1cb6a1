#include "runloop/runtime/error.h"

#include <algorithm>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runloop/runtime/strings.h"

namespace runloop {
namespace {

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";
constexpr absl::Duration kLongestRetryDelay = absl::Minutes(1);
constexpr char kDomain[] = "runloop";
constexpr char kReasonPrefix[] = "ERROR_REASON_";
// What a peer may attach to a status is bounded.
constexpr size_t kMaxPayloadBytes = 8192;
constexpr int kMaxPayloads = 8;

// Protobuf strings must be UTF-8; the text of an exception need not be.
std::string ValidUtf8(absl::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const unsigned char lead = static_cast<unsigned char>(text[i]);
    const int length = lead < 0x80       ? 1
                       : lead >> 5 == 6  ? 2
                       : lead >> 4 == 14 ? 3
                       : lead >> 3 == 30 ? 4
                                         : 0;
    uint32_t code = length < 2 ? lead : lead & (0xff >> (length + 1));
    bool ok = length > 0 && i + length <= text.size();
    for (int k = 1; ok && k < length; ++k) {
      const unsigned char next = static_cast<unsigned char>(text[i + k]);
      ok = next >> 6 == 2;
      code = code << 6 | (next & 0x3f);
    }
    constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
    ok = ok && code >= kSmallest[length] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
    if (ok) {
      valid.append(text.data() + i, length);
      i += length;
    } else {
      valid.append("?");
      ++i;
    }
  }
  return valid;
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, v1::ErrorReason reason, std::string_view message,
                       const ErrorMetadata& metadata) {
  absl::Status status(code, View(message));
  v1::ErrorInfo info;
  const std::string name = v1::ErrorReason_Name(reason);
  info.set_reason(std::string(absl::StripPrefix(name, kReasonPrefix)));
  info.set_domain(kDomain);
  for (const auto& [key, value] : metadata) (*info.mutable_metadata())[key] = ValidUtf8(value);
  status.SetPayload(kErrorInfoUrl, absl::Cord(info.SerializeAsString()));
  return status;
}

v1::ErrorReason ReasonOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kErrorInfoUrl);
  v1::ErrorInfo info;
  v1::ErrorReason reason;
  if (!payload.has_value() || !info.ParseFromString(std::string(*payload)) ||
      info.domain() != kDomain ||
      !v1::ErrorReason_Parse(absl::StrCat(kReasonPrefix, info.reason()), &reason)) {
    return v1::ERROR_REASON_UNSPECIFIED;
  }
  return reason;
}

void SetRetryDelay(absl::Status& status, absl::Duration delay) {
  v1::RetryInfo info;
  const timespec time =
      absl::ToTimespec(std::clamp(delay, absl::ZeroDuration(), kLongestRetryDelay));
  info.mutable_retry_delay()->set_seconds(time.tv_sec);
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(time.tv_nsec));
  status.SetPayload(kRetryInfoUrl, absl::Cord(info.SerializeAsString()));
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryInfoUrl);
  v1::RetryInfo info;
  if (!payload.has_value() || !info.ParseFromString(std::string(*payload)) ||
      !info.has_retry_delay()) {
    return std::nullopt;
  }
  const absl::Duration delay =
      absl::Seconds(info.retry_delay().seconds()) + absl::Nanoseconds(info.retry_delay().nanos());
  return std::clamp(delay, absl::ZeroDuration(), kLongestRetryDelay);
}

v1::Status ToProto(const absl::Status& status) {
  v1::Status proto;
  proto.set_code(static_cast<int32_t>(status.code()));
  proto.set_message(ValidUtf8(status.message()));
  status.ForEachPayload([&proto](absl::string_view url, const absl::Cord& payload) {
    google::protobuf::Any* any = proto.add_details();
    any->set_type_url(std::string(url));
    any->set_value(std::string(payload));
  });
  return proto;
}

absl::Status FromProto(const v1::Status& proto) {
  const bool known = proto.code() >= 0 && proto.code() <= 16;
  auto code = known ? static_cast<absl::StatusCode>(proto.code()) : absl::StatusCode::kUnknown;
  if (code == absl::StatusCode::kOk) {
    if (proto.message().empty() && proto.details().empty()) return absl::OkStatus();
    code = absl::StatusCode::kUnknown;
  }
  absl::Status status(code, ValidUtf8(proto.message()));
  for (int i = 0; i < proto.details_size() && i < kMaxPayloads; ++i) {
    const google::protobuf::Any& any = proto.details(i);
    if (any.type_url().empty() || any.value().size() > kMaxPayloadBytes) continue;
    status.SetPayload(any.type_url(), absl::Cord(any.value()));
  }
  return status;
}

}  // namespace runloop

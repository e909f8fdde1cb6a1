#include "runloop/daemon/durations.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/strings.h"

namespace runloop::daemon {
namespace {

constexpr int64_t kMaxSeconds = 315'576'000'000;
constexpr int32_t kNanosPerSecond = 1'000'000'000;

}  // namespace

absl::StatusOr<absl::Duration> FromProto(const google::protobuf::Duration& duration,
                                         std::string_view what) {
  return ReadDuration(duration.seconds(), duration.nanos(), what);
}

absl::StatusOr<absl::Duration> ReadDuration(int64_t seconds, int32_t nanos, std::string_view what) {
  if (seconds < -kMaxSeconds || seconds > kMaxSeconds || nanos <= -kNanosPerSecond ||
      nanos >= kNanosPerSecond || (seconds < 0 && nanos > 0) || (seconds > 0 && nanos < 0)) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                     absl::StrCat("the ", View(what), " is no valid Duration"));
  }
  return absl::Seconds(seconds) + absl::Nanoseconds(nanos);
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  if (duration >= absl::Seconds(kMaxSeconds)) {
    proto.set_seconds(kMaxSeconds);
    return proto;
  }
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp proto;
  proto.set_seconds(absl::ToUnixSeconds(time));
  proto.set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(proto.seconds()))));
  return proto;
}

}  // namespace runloop::daemon

#include "runloop/client/retry_delay.h"

#include <algorithm>
#include <string>

#include "absl/strings/cord.h"
#include "runloop/v1/status.pb.h"

namespace runloop {

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload =
      status.GetPayload("type.googleapis.com/google.rpc.RetryInfo");
  v1::RetryInfo info;
  if (!payload.has_value() || !info.ParseFromString(std::string(*payload)) ||
      !info.has_retry_delay()) {
    return std::nullopt;
  }
  return std::max(
      absl::Seconds(info.retry_delay().seconds()) + absl::Nanoseconds(info.retry_delay().nanos()),
      absl::ZeroDuration());
}

}  // namespace runloop

#ifndef RUNLOOP_DAEMON_DURATIONS_H_
#define RUNLOOP_DAEMON_DURATIONS_H_

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace runloop::daemon {

// A peer's duration, which an error calls `what`. INVALID_ARGUMENT (INVALID_REQUEST) if it is none:
// nanoseconds out of range or of the other sign, or longer than 10,000 years.
absl::StatusOr<absl::Duration> FromProto(const google::protobuf::Duration& duration,
                                         std::string_view what = "timeout");
// The same of its fields.
absl::StatusOr<absl::Duration> ReadDuration(int64_t seconds, int32_t nanos, std::string_view what);

google::protobuf::Duration ToProto(absl::Duration duration);
google::protobuf::Timestamp ToProto(absl::Time time);

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_DURATIONS_H_

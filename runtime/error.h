#ifndef RUNLOOP_RUNTIME_ERROR_H_
#define RUNLOOP_RUNTIME_ERROR_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runloop/v1/error_reason.pb.h"
#include "runloop/v1/status.pb.h"

namespace runloop {

using ErrorMetadata = std::vector<std::pair<std::string, std::string>>;

// An error of runloop's own: the code says what the caller should do next, the reason is stable and
// for programs, the message is for people and says what to do. The reason rides in the status as a
// google.rpc.ErrorInfo payload, in process and over the wire alike.
absl::Status MakeError(absl::StatusCode code, v1::ErrorReason reason, std::string_view message,
                       const ErrorMetadata& metadata = {});

// The reason that `status` carries; ERROR_REASON_UNSPECIFIED if it carries none of runloop's.
v1::ErrorReason ReasonOf(const absl::Status& status);

// When to try again, carried as a google.rpc.RetryInfo payload; nothing if `status` carries none.
// What a peer claims is cut to between zero and a minute.
void SetRetryDelay(absl::Status& status, absl::Duration delay);
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

// `status` and its payloads as a message, and back. A message from another process is taken as a
// claim: an unknown code becomes UNKNOWN, text that is no UTF-8 is replaced, and OK with a message
// is an error.
v1::Status ToProto(const absl::Status& status);
absl::Status FromProto(const v1::Status& status);

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_ERROR_H_

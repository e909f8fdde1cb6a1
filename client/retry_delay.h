#ifndef RUNLOOP_CLIENT_RETRY_DELAY_H_
#define RUNLOOP_CLIENT_RETRY_DELAY_H_

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace runloop {

// When to try again, as the status itself hints (google.rpc.RetryInfo); at least 0. nullopt: it
// does not say.
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

}  // namespace runloop

#endif  // RUNLOOP_CLIENT_RETRY_DELAY_H_

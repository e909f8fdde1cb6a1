#ifndef RUNLOOP_CLIENT_CLI_STATUS_TEXT_H_
#define RUNLOOP_CLIENT_CLI_STATUS_TEXT_H_

#include <string>

#include "absl/time/time.h"
#include "runloop/v1/diagnostics.pb.h"

namespace runloop::cli {

// The daemon's answers as a page for people. `now` is the time of day, from which ages are counted.
std::string StatusText(const v1::GetStatusResponse& status, absl::Time now);
std::string OperationsText(const v1::ListOperationsResponse& operations);

}  // namespace runloop::cli

#endif  // RUNLOOP_CLIENT_CLI_STATUS_TEXT_H_

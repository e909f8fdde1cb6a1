#ifndef RUNLOOP_CLIENT_CLI_STATUS_TEXT_H_
#define RUNLOOP_CLIENT_CLI_STATUS_TEXT_H_

#include <string>

#include "absl/time/time.h"
#include "runloop/v1/diagnostics.pb.h"

namespace runloop::cli {

// The daemon's answers as a page for people. `now` is the time of day, from which ages are counted.
std::string StatusText(const v1::GetStatusResponse& status, absl::Time now);
// What runs now, for whom and from where, such as `a.B/C of session s1 (client recorder, pid 7),
// called at src/main.cc:42 (int main()), for 5s`; empty if nothing does.
std::string CurrentText(const v1::RuntimeThread& thread);
// What has not ended, such as `3 queued, 1 running`.
std::string UnfinishedText(const v1::Ledger& ledger);
std::string OperationsText(const v1::ListOperationsResponse& operations);

}  // namespace runloop::cli

#endif  // RUNLOOP_CLIENT_CLI_STATUS_TEXT_H_

#ifndef RUNLOOP_TESTS_SEQUENCE_OUTCOME_TEXT_H_
#define RUNLOOP_TESTS_SEQUENCE_OUTCOME_TEXT_H_

#include <string>

#include "absl/status/status.h"

namespace runloop::sequence {

// Outcomes and answers as text: a status' code and its reason, and with QUEUE_FULL whose bound and
// which.
inline constexpr char kOk[] = "OK";
inline constexpr char kCancelled[] = "CANCELLED CANCELLED";
inline constexpr char kBatchStopped[] = "CANCELLED BATCH_STOPPED";
inline constexpr char kStopped[] = "UNAVAILABLE RUNTIME_STOPPED";
inline constexpr char kDraining[] = "UNAVAILABLE DRAINING";
inline constexpr char kNotConnected[] = "UNAVAILABLE NOT_CONNECTED";
inline constexpr char kSessionEnded[] = "ABORTED SESSION_ENDED";
inline constexpr char kUnknownHandle[] = "NOT_FOUND UNKNOWN_HANDLE";
inline constexpr char kHandlesFull[] = "RESOURCE_EXHAUSTED HANDLES_FULL";
inline constexpr char kStillRunning[] = "DEADLINE_EXCEEDED STILL_RUNNING";

// What the runtime answered, so.
std::string InWords(const absl::Status& status);

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_OUTCOME_TEXT_H_

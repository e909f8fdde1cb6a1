#include "runloop/client/processor.h"

#include <signal.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "absl/strings/str_cat.h"
#include "runloop/client/printable.h"
#include "runloop/runtime/error.h"

namespace runloop {
namespace {

std::atomic<int> stop_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free);  // a handler sets it

void NoteSignal(int signal) { stop_signal = signal; }

// Notes SIGTERM and SIGINT in stop_signal; puts back what was there before.
class StopSignals {
 public:
  StopSignals() {
    stop_signal = 0;
    struct sigaction action = {};
    action.sa_handler = &NoteSignal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, &term_before_);
    sigaction(SIGINT, &action, &int_before_);
  }
  ~StopSignals() {
    sigaction(SIGTERM, &term_before_, nullptr);
    sigaction(SIGINT, &int_before_, nullptr);
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  bool stopped() const { return stop_signal != 0; }

 private:
  struct sigaction term_before_;
  struct sigaction int_before_;
};

// Calls a step of the processor; an exception becomes its error.
template <typename Step>
absl::Status Try(Step step) {
  try {
    return step();
  } catch (const std::exception& exception) {
    return MakeError(absl::StatusCode::kInternal, v1::ERROR_REASON_HANDLER_THREW,
                     absl::StrCat("exception: ", exception.what()));
  } catch (...) {
    return MakeError(absl::StatusCode::kInternal, v1::ERROR_REASON_HANDLER_THREW,
                     "an exception of unknown type");
  }
}

void Report(const char* step, const absl::Status& status) {
  const std::string line =
      absl::StrCat(program_invocation_short_name, ": ", step, ": ",
                   absl::StatusCodeToString(status.code()), ": ", std::string(status.message()));
  std::fputs((internal::Printable(line) + "\n").c_str(), stderr);
}

// True if the error is that there is no daemon, or no longer.
bool IsLost(const absl::Status& status) {
  switch (ReasonOf(status)) {
    case v1::ERROR_REASON_NOT_CONNECTED:
    case v1::ERROR_REASON_SESSION_LOST:
    case v1::ERROR_REASON_DRAINING:
    case v1::ERROR_REASON_RUNTIME_STOPPED:
      return true;
    default:
      return false;
  }
}

absl::Status ProcessUntilDone(Processor& processor, const StopSignals& signals) {
  while (!signals.stopped()) {
    absl::StatusOr<Processor::Next> next = processor.Process();
    if (!next.ok()) return next.status();
    if (*next == Processor::Next::kDone) break;
  }
  return absl::OkStatus();
}

}  // namespace

int RunProcessor(Processor& processor, const ConnectOptions& options) {
  const StopSignals signals;
  absl::StatusOr<RuntimeContext> context = Connect(options);
  if (!context.ok()) {
    Report("connect", context.status());
    return kProcessorNotConnected;
  }
  if (signals.stopped()) return kProcessorDone;

  const char* step = "setup";
  absl::Status status = Try([&] { return processor.Setup(*context); });
  if (status.ok()) {
    step = "process";
    status = Try([&] { return ProcessUntilDone(processor, signals); });
  }
  if (!status.ok()) Report(step, status);
  const absl::Status torn_down = Try([&] { return processor.Teardown(); });
  if (!torn_down.ok()) Report("teardown", torn_down);

  if (IsLost(status) || (status.ok() && IsLost(torn_down))) return kProcessorNotConnected;
  if (!status.ok()) return kProcessorFailed;
  return torn_down.ok() ? kProcessorDone : kProcessorTeardownFailed;
}

}  // namespace runloop

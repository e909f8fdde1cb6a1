#include "runloop/client/processor.h"

#include <signal.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/client/printable.h"
#include "runloop/runtime/error.h"

namespace runloop {
namespace {

constexpr char kSetupStep[] = "setup";
constexpr char kProcessStep[] = "process";
constexpr char kLossStep[] = "session lost";

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

// The sessions that were lost and not yet told of. Thread-safe.
class Losses {
 public:
  // Before the outcomes that are part of a loss; Add follows them.
  void Announce() {
    absl::MutexLock lock(&mutex_);
    announced_ = true;
  }
  void Add(const SessionLost& lost) {
    absl::MutexLock lock(&mutex_);
    announced_ = false;
    losses_.push_back(lost);
  }
  // With those of which an outcome may be known already.
  std::vector<SessionLost> TakeAll() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &Losses::complete));
    return std::exchange(losses_, {});
  }

 private:
  bool complete() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !announced_; }

  absl::Mutex mutex_;
  bool announced_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<SessionLost> losses_ ABSL_GUARDED_BY(mutex_);
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

// All of them, whatever is said to the first.
absl::Status TellOf(const std::vector<SessionLost>& losses, Processor& processor) {
  absl::Status status;
  for (const SessionLost& lost : losses) status.Update(processor.OnSessionLost(lost));
  return status;
}

// `step` is what failed, if the result is an error.
absl::Status ProcessUntilDone(Processor& processor, const StopSignals& signals, Losses& losses,
                              const char*& step) {
  while (!signals.stopped()) {
    step = kLossStep;
    if (absl::Status status = TellOf(losses.TakeAll(), processor); !status.ok()) return status;
    step = kProcessStep;
    absl::StatusOr<Processor::Next> next = processor.Process();
    if (!next.ok()) return next.status();
    if (*next == Processor::Next::kDone) break;
  }
  return absl::OkStatus();
}

}  // namespace

int RunProcessor(Processor& processor, const ConnectOptions& options) {
  const StopSignals signals;
  // Shared with the client, which may outlive this call.
  const auto losses = std::make_shared<Losses>();
  ConnectOptions with_losses = options;
  with_losses.on_session_lost = [losses, also = options.on_session_lost](const SessionLost& lost) {
    losses->Add(lost);
    if (also) also(lost);
  };
  with_losses.internal.before_session_lost = [losses, also = options.internal.before_session_lost] {
    losses->Announce();
    if (also) also();
  };
  // Kept until the end: what is announced is told for as long as there is a context.
  const absl::StatusOr<RuntimeContext> context = Connect(with_losses);
  if (!context.ok()) {
    Report("connect", context.status());
    return kProcessorNotConnected;
  }
  if (signals.stopped()) return kProcessorDone;

  const char* step = kSetupStep;
  absl::Status status = Try([&] { return processor.Setup(*context); });
  if (status.ok()) {
    status = Try([&] { return ProcessUntilDone(processor, signals, *losses, step); });
  }
  if (!status.ok()) Report(step, status);
  // Also of the loss that the outcome which ended Process is part of.
  const absl::Status told = Try([&] { return TellOf(losses->TakeAll(), processor); });
  if (status.ok() && !told.ok()) {
    Report(kLossStep, told);
    status = told;
  }
  const absl::Status torn_down = Try([&] { return processor.Teardown(); });
  if (!torn_down.ok()) Report("teardown", torn_down);

  if (IsLost(status) || (status.ok() && IsLost(torn_down))) return kProcessorNotConnected;
  if (!status.ok()) return kProcessorFailed;
  return torn_down.ok() ? kProcessorDone : kProcessorTeardownFailed;
}

}  // namespace runloop

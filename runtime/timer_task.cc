#include "runloop/runtime/timer_task.h"

#include <utility>

#include "runloop/runtime/core.h"

namespace runloop::internal {

TimerTask::TimerTask(RuntimeCore& core, Closure closure, absl::Time due, absl::Duration period)
    : core_(core), period_(period), closure_(std::move(closure)), due_(due) {
  is_timer = true;
}

Task::RunResult TimerTask::Run() {
  ran_ = true;
  if (periodic()) {
    // Of the times that have come by now this run is for all.
    const absl::Time now = core_.clock().Now();
    absl::Duration rest;
    (void)absl::IDivDuration(now - due_, period_, &rest);
    due_ = now - rest + period_;
  }
  RunResult result = RunResult::kSucceeded;
  try {
    closure_();
  } catch (...) {
    LogClosureThrew(core_);
    result = RunResult::kFailed;
  }
  if (!periodic()) closure_ = nullptr;
  return result;
}

void TimerTask::Release() {
  // By now the run is counted. The core keeps this until it is queued again.
  if (std::exchange(ran_, false) && periodic() && Rearm()) return;
  {
    absl::MutexLock lock(&mutex_);
    over_ = true;
  }
  closure_ = nullptr;
  const std::shared_ptr<TimerTask> last = std::move(queue_reference_);
}

bool TimerTask::Rearm() {
  absl::MutexLock lock(&mutex_);
  return !over_ && core_.AddTimerAgain(*this);
}

bool TimerTask::Cancel(bool& unstarted) {
  absl::MutexLock lock(&mutex_);
  unstarted = false;
  if (std::exchange(over_, true)) return false;
  unstarted = core_.lifecycle().EndUnstarted(*this, OutcomeKind::kCancelled);
  return unstarted || periodic();
}

}  // namespace runloop::internal

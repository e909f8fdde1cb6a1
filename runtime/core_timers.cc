// What is to run later, in RuntimeCore: timers of closures, delayed operations, and who wakes the
// loop for them.

#include <algorithm>
#include <utility>

#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/planted_bugs.h"

namespace runloop::internal {

// ---- timers of closures ----

absl::StatusOr<std::shared_ptr<TimerTask>> RuntimeCore::StartTimer(TimerTask::Closure closure,
                                                                   absl::Duration delay,
                                                                   absl::Duration period,
                                                                   Priority priority) {
  if (period <= absl::ZeroDuration()) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                     "the period of a timer must be positive");
  }
  if (stopped()) {
    lifecycle_.Refuse();
    return StoppedError();
  }
  const absl::Time now = clock_->Now();
  const absl::Time due = now + std::max(delay, absl::ZeroDuration());
  auto timer = std::make_shared<TimerTask>(*this, std::move(closure), due, period);
  timer->priority = priority;
  const bool delayed = due > now;
  if (absl::Status admitted =
          lifecycle_.Admit(*timer, nullptr, delayed ? Task::State::kDelayed : Task::State::kQueued);
      !admitted.ok()) {
    return admitted;
  }
  timer->HoldForQueue();
  if (delayed ? AddDelayed(*timer, due) : Enqueue(timer.get())) return timer;
  lifecycle_.Unadmit(*timer);
  lifecycle_.Refuse();
  timer->Release();
  return StoppedError();
}

bool RuntimeCore::AddTimerAgain(TimerTask& timer) {
  if (stopped()) return false;
  lifecycle_.AdmitUnbounded(timer, Task::State::kDelayed);
  if (AddDelayed(timer, timer.due())) return true;
  lifecycle_.Unadmit(timer);
  return false;
}

bool RuntimeCore::CancelTimer(TimerTask& timer) {
  bool unstarted;
  if (!timer.Cancel(unstarted)) return false;
  if (!unstarted || Planted(PlantedBug::kTimerAfterCancel)) return true;
  if (OnRuntimeThread()) {
    if (timers_.Take(timer) || queue_.Take(timer, clock_->Now())) timer.Release();
  } else {
    // The closure is for the runtime thread to destroy: it gets it in its turn.
    lifecycle_.CountStale(1);
    if (timers_.Join(timer)) WakeLoop();
  }
  QuitIfDrained();
  return true;
}

// ---- what is delayed, and when the loop wakes for it ----

bool RuntimeCore::AddDelayed(Task& task, absl::Time due) {
  const absl::Time deadline = task.deadline;  // it may have gone once it is added
  if (!timers_.Add(task, due)) return false;
  // A loop that is awake sets its timer before it sleeps.
  if (!loop_keeps_time_ || sleep_.asleep()) SetTimerWake();
  // One that is stuck, in a task or not, looks at no timer.
  if (deadline != absl::InfiniteFuture()) WatchDelayed(deadline);
  QuitIfDrained();  // it may have been seen on its way here
  return true;
}

void RuntimeCore::WatchDelayed(absl::Time deadline) {
  absl::MutexLock lock(&service_mutex_);
  if (deadline >= delayed_deadline_) return;
  delayed_deadline_ = deadline;
  service_changed_.Signal();
}

bool RuntimeCore::JoinDue(absl::Time now) {
  std::vector<Task*> expired;
  const bool any = timers_.JoinDue(now, expired);
  for (Task* const task : expired) {
    if (lifecycle_.EndUnstarted(*task, OutcomeKind::kExpired)) {
      task->Skip(WhyNeverRan(*task, OutcomeKind::kExpired));
    }
    task->Release();
  }
  if (!expired.empty()) QuitIfDrained();
  return any;
}

void RuntimeCore::SetTimerWake() {
  timers_.SetWake([this](absl::Time at) {
    if (loop_keeps_time_) {
      loop_->WakeAt(at).IgnoreError();  // it could once
      return;
    }
    absl::MutexLock lock(&service_mutex_);
    timer_wake_ = at;
    service_changed_.Signal();
  });
}

bool RuntimeCore::SleepUntilDue() {
  if (timers_.rests()) return true;
  SetTimerWake();
  return !timers_.IsDue(clock_->Now());
}

bool RuntimeCore::JoinDueInstead(absl::Time now) {
  bool any = false;
  while (timers_.IsDue(now) && JoinDue(now)) any = true;
  if (any) {
    queue_.Intake(now);
    WakeLoop();
  }
  if (!loop_keeps_time_) SetTimerWake();
  return any;
}

}  // namespace runloop::internal

#ifndef RUNLOOP_RUNTIME_TIMER_TASK_H_
#define RUNLOOP_RUNTIME_TIMER_TASK_H_

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/task.h"

namespace runloop::internal {

class RuntimeCore;

// The closure of a Timer. Each run is an invocation of its own, with one outcome. A periodic timer
// always has exactly one that has not ended, which takes the room of the one before it: so it is
// never twice in the queue.
//
// Shared by Timers and, while it is to run, by the runtime's queues. The closure is destroyed on
// the runtime thread, once it is to run no more; if the runtime stops first, on the thread that
// stops it.
class TimerTask final : public Task, public std::enable_shared_from_this<TimerTask> {
 public:
  using Closure = absl::AnyInvocable<void()>;

  // First due at `due`, then each `period`, which is positive; InfiniteDuration: once.
  TimerTask(RuntimeCore& core, Closure closure, absl::Time due, absl::Duration period);

  RunResult Run() override;
  // Nobody waits for it.
  void Skip(const absl::Status&) override {}
  void Release() override;

  // The queue's reference, to be set just before it is handed over.
  void HoldForQueue() { queue_reference_ = shared_from_this(); }

  // As Timer::Cancel. `unstarted`: it was waiting, and is to be taken out.
  bool Cancel(bool& unstarted) ABSL_LOCKS_EXCLUDED(mutex_);

  absl::Time due() const { return due_; }

 private:
  bool periodic() const { return period_ != absl::InfiniteDuration(); }
  // Waits for its next run; false: there is none.
  bool Rearm() ABSL_LOCKS_EXCLUDED(mutex_);

  RuntimeCore& core_;  // there is one while the queues have this
  const absl::Duration period_;

  // The runtime thread's, once it is handed over.
  Closure closure_;
  absl::Time due_;    // next
  bool ran_ = false;  // since it was handed over
  std::shared_ptr<TimerTask> queue_reference_;

  absl::Mutex mutex_;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;  // cancelled, or it waits for no run any more
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_TIMER_TASK_H_

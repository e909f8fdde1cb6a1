#ifndef RUNLOOP_RUNTIME_TASK_QUEUE_H_
#define RUNLOOP_RUNTIME_TASK_QUEUE_H_

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/task.h"

namespace runloop::internal {

// Where producers leave tasks: a lock-free stack that is taken whole and turned round, so that the
// order is that of the pushes. Any thread.
class PostList {
 public:
  // False: closed, now and for ever.
  bool Push(Task* task);
  // All that was pushed, oldest first, linked by next_; null if nothing was.
  Task* Take();
  // The same, and from now on nothing can be pushed.
  Task* Close();
  bool empty() const;

 private:
  static Task* Reverse(Task* newest);

  std::atomic<Task*> head_{nullptr};
};

// The one queue and the one order (D2): an entry's place is that of its admission, which happens at
// intake, when it leaves the post list, gets its number and is queued. One lock guards intake and
// the queue; it is held while entries move, never while a task runs or is destroyed.
//
// Threads: Push from any. Intake and Look from any; the runtime thread does intake between tasks,
// the service thread while a task runs for long. Pop and Close from the runtime thread.
class TaskQueue {
 public:
  // True if the queue took the task's reference; false if it is closed.
  bool Push(Task* task) { return posts_.Push(task); }

  // Admits what was posted.
  void Intake(absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // Does intake, then takes the oldest task; null if there is none. `admitted_at` is what `now` was
  // at its intake.
  struct Popped {
    Task* task = nullptr;
    absl::Time admitted_at;
  };
  Popped Pop(absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // Nothing can be pushed any more; what was is queued.
  void Close(absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // True if nothing is posted or queued.
  bool empty() const ABSL_LOCKS_EXCLUDED(intake_);

  // Does intake; when the oldest queued task was admitted, or InfiniteFuture.
  absl::Time OldestAdmitted(absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // True if a task that is queued may have reached its deadline: cheap, and false where there are
  // no deadlines.
  bool MayHaveExpired(absl::Time now) const ABSL_LOCKS_EXCLUDED(intake_);

  // Does intake, then shows each queued task, oldest first, while the lock is held. `visit` must be
  // quick and must not come back to the queue.
  void Look(absl::Time now, absl::FunctionRef<void(Task&)> visit) ABSL_LOCKS_EXCLUDED(intake_);

 private:
  void Append(Task* oldest, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);

  PostList posts_;

  mutable absl::Mutex intake_;
  Task* first_ ABSL_GUARDED_BY(intake_) = nullptr;
  Task* last_ ABSL_GUARDED_BY(intake_) = nullptr;
  uint64_t next_sequence_ ABSL_GUARDED_BY(intake_) = 1;
  // No queued task has an earlier one; those that have left may have had it.
  absl::Time earliest_deadline_ ABSL_GUARDED_BY(intake_) = absl::InfiniteFuture();
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_TASK_QUEUE_H_

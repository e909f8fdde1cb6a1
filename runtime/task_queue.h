#ifndef RUNLOOP_RUNTIME_TASK_QUEUE_H_
#define RUNLOOP_RUNTIME_TASK_QUEUE_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
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

// A doubly linked list of tasks that it does not own.
struct TaskList {
  Task* first = nullptr;
  Task* last = nullptr;
};

// One source of tasks: a session of another process, or this process as a whole. Lives as long as
// its tasks; the queue's, under its lock.
struct Lane {
  TaskList waiting;
  int in_line = 0;
};

// The one queue and the one order (D2): the runtime thread takes tasks from one line, in the order
// in which they joined it. A task joins at intake, when it leaves the post list.
//
// Fairness: of each lane at most kLaneDepth tasks stand in the line. Those beyond wait in the lane,
// in their order, and join one by one as tasks of the lane leave the line. So tasks of one lane
// start in the order of their pushes, those of several lanes too as long as none has more than
// kLaneDepth waiting, and a flood in one makes a task of another wait for kLaneDepth of its tasks
// at most, however long the flood is.
//
// One lock guards intake, line and lanes; it is held while entries move, never while a task runs or
// is destroyed.
//
// Threads: Push, Intake, Take, TakeIf, Replace from any. Pop and Close from the runtime thread.
class TaskQueue {
 public:
  static constexpr int kLaneDepth = 32;

  // True if the queue took the task's reference; false if it is closed.
  bool Push(Task* task) { return posts_.Push(task); }

  // Lets what was posted join.
  void Intake(absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // Does intake, then takes the first in line, with the queue's reference; null if there is none.
  Task* Pop(absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // Takes `task` out, with the queue's reference. False: it is not in the queue any more.
  bool Take(Task& task, absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // Takes out those that `wanted` says yes to, oldest first in each lane, with the queue's
  // references. `wanted` is called under the lock: it must be quick and not come back here. With
  // `only`, looks at the line and this one lane.
  std::vector<Task*> TakeIf(absl::Time now, const Lane* only, absl::FunctionRef<bool(Task&)> wanted)
      ABSL_LOCKS_EXCLUDED(intake_);

  // Puts `task` in the place of `old`, of the same lane, and takes that out, with the queue's
  // reference. False: `old` is not in the queue any more, and nothing was done.
  bool Replace(Task& old, Task* task, absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // Nothing can be pushed any more; what was has joined.
  void Close(absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // True if nothing is posted or queued.
  bool empty() const ABSL_LOCKS_EXCLUDED(intake_);

  // Does intake; when the task was posted that has waited longest, or InfiniteFuture.
  absl::Time OldestIntake(absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // True if a task that is queued may have reached its deadline: cheap, and false where there are
  // no deadlines.
  bool MayHaveExpired(absl::Time now) const ABSL_LOCKS_EXCLUDED(intake_);

 private:
  // Lets a list that is linked by next_ join.
  void Admit(Task* oldest, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  void Append(TaskList& list, Task* task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  void Unlink(TaskList& list, Task* task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  // Takes it out of where it is and lets the next of its lane join the line.
  void Remove(Task* task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  Lane& LaneOf(const Task& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_) {
    return task.lane != nullptr ? *task.lane : own_lane_;
  }

  PostList posts_;

  mutable absl::Mutex intake_;
  TaskList line_ ABSL_GUARDED_BY(intake_);
  Lane own_lane_ ABSL_GUARDED_BY(intake_);
  absl::flat_hash_set<Lane*> waiting_lanes_
      ABSL_GUARDED_BY(intake_);  // whose `waiting` is not empty
  // No queued task has an earlier one; those that have left may have had it.
  absl::Time earliest_deadline_ ABSL_GUARDED_BY(intake_) = absl::InfiniteFuture();
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_TASK_QUEUE_H_

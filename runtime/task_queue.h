#ifndef RUNLOOP_RUNTIME_TASK_QUEUE_H_
#define RUNLOOP_RUNTIME_TASK_QUEUE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "runloop/runtime/closure_node.h"
#include "runloop/runtime/mutex.h"
#include "runloop/runtime/post_list.h"
#include "runloop/runtime/priority.h"
#include "runloop/runtime/task.h"

namespace runloop::internal {

// One source of tasks: a session of another process, or what this process as a whole has of one
// priority. Lives as long as its tasks; but for the priority, the queue's, under its lock.
struct Lane {
  Priority priority = Priority::kDefault;  // of all its tasks
  ItemList waiting;
  size_t in_line = 0;
};

// The one queue and the one order (D2): the runtime thread takes tasks and closures from one line,
// in the order in which they joined it. They join at intake, when they leave the post list. There
// is such a line for each priority.
//
// Priorities: what is more urgent is taken first, but while something is in a line at most
// kTurnEvery - 1 tasks of more urgent ones are taken before it has its turn; a batch that is longer
// than what is left of them is made up for by as many turns, as long as something waits there.
//
// Batches: tasks that are pushed together and share a TaskBatch stand in the line one behind the
// other, and are taken in a row, whatever the priority of what else waits. They join the line
// together, and may so be more than kLaneDepth.
//
// Fairness: of each lane at most kLaneDepth stand in the line. Those beyond wait in the lane, in
// their order, and join one by one as others of the lane leave the line. So what is in one lane
// starts in the order of its pushes, and what is in several lanes too as long as none has more than
// kLaneDepth waiting, and a flood in one makes a task of another wait for kLaneDepth of its tasks
// at most, or as many and a batch, however long the flood is. Closures are in the lane of this
// process, and are taken several at a time: each counts as standing in the line until it has
// started.
//
// One lock guards intake, line and lanes; it is held while entries move, never while a task runs or
// is destroyed.
//
// Threads: Push, Intake, Take, TakeIf, Replace from any. Pop, TakeClosures and Close from the
// runtime thread.
class TaskQueue {
 public:
  static constexpr size_t kLaneDepth = 32;
  // By priority.
  static constexpr std::array<size_t, kPriorities> kTurnEvery = {1, 8, 64};

  // `closures_started` counts those that the runtime thread has started; it outlives the queue.
  explicit TaskQueue(const std::atomic<uint64_t>& closures_started);

  // True if the queue took the item, and a task's reference; false if it is closed.
  bool Push(ClosureNode* closure) { return posts_.Push(closure); }
  bool Push(Task* task) { return Push(task, task); }
  // Tasks of one lane at once, linked by LinkAfter.
  bool Push(Task* newest, Task* oldest) {
    const bool others = oldest->lane != nullptr || oldest->priority != Priority::kDefault;
    if (!posts_.Push(newest, oldest)) return false;
    if (others) others_posted_.store(true, std::memory_order_release);
    return true;
  }
  static void LinkAfter(Task& task, Task* before) { task.next_ = before; }
  static Task* LinkedBefore(const Task& task) { return static_cast<Task*>(task.next_); }

  // Lets what was posted join.
  void Intake(absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // What comes next: a task, with the queue's reference, or closures in a row, or nothing.
  struct Next {
    Task* task = nullptr;
    ClosureNode* closures = nullptr;  // linked by NextOf
  };
  // Does intake, then takes what is first in line. With `closures_in_hand`, of those that it gave
  // before, only what is more urgent than they are: nothing if it is their turn.
  Next Pop(absl::Time now, bool closures_in_hand = false) ABSL_LOCKS_EXCLUDED(intake_);
  static ClosureNode* NextOf(const ClosureNode& closure) {
    return static_cast<ClosureNode*>(closure.next_);
  }

  // Takes out all closures, oldest first.
  ClosureNode* TakeClosures(absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // Takes `task` out, with the queue's reference. False: it is not in the queue any more.
  bool Take(Task& task, absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // Takes out those tasks that `wanted` says yes to, oldest first in each lane, with the queue's
  // references. `wanted` is called under the lock: it must be quick and not come back here. With
  // `only`, looks at the line and this one lane.
  std::vector<Task*> TakeIf(absl::Time now, const Lane* only, absl::FunctionRef<bool(Task&)> wanted)
      ABSL_LOCKS_EXCLUDED(intake_);

  // Puts `task` in the place of `old`, of the same lane, and takes that out, with the queue's
  // reference. False: `old` is not in the queue any more, and nothing was done.
  bool Replace(Task& old, Task* task, absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // Nothing can be pushed any more; what was has joined.
  void Close(absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // True if nothing is posted, queued, or taken by Pop and not started.
  bool empty() const ABSL_LOCKS_EXCLUDED(intake_);
  // True if something was posted since the last intake. Cheap.
  bool has_posts() const { return !posts_.empty(); }
  // True if some of it is in another lane than closures are: then the runtime thread does intake
  // between two closures, too. Cheap.
  bool others_have_posts() const { return others_posted_.load(std::memory_order_acquire); }
  // True if, at the last intake, something came before closures that were taken: what is more
  // urgent, or the rest of a batch that has begun. Cheap.
  bool urgent() const { return urgent_.load(std::memory_order_relaxed); }

  // Does intake; when what is queued and has waited longest was posted, or InfiniteFuture.
  absl::Time OldestIntake(absl::Time now) ABSL_LOCKS_EXCLUDED(intake_);

  // Does intake, then shows what stands first, at most so many, tasks and closures: first the rest
  // of a batch that has begun, then line by line, the most urgent first.
  // `look` is called under the lock: it must be quick and not come back here.
  void LookAtFirst(absl::Time now, size_t most,
                   absl::FunctionRef<void(const Task*, const ClosureNode*)> look)
      ABSL_LOCKS_EXCLUDED(intake_);

  // True if a task that is queued may have reached its deadline: cheap, and false where there are
  // no deadlines.
  bool MayHaveExpired(absl::Time now) const ABSL_LOCKS_EXCLUDED(intake_);

 private:
  // Closures up to `last` came in no earlier than `at`.
  struct Epoch {
    uint64_t last;
    absl::Time at;
  };

  // Lets what was posted join.
  void Admit(ItemList posted, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  void Join(QueueItem* item, Lane& lane) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  // True if what has joined the line last is of the batch.
  bool ContinuesLine(const ItemList& line, const QueueItem* item) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  // Something is in the line, or was taken out of it and has not started.
  bool Waits(size_t level) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  // Whose turn it is; none: nothing waits.
  std::optional<size_t> NextLevel() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  // So many of a line have their turn, which makes up for others that have passed.
  void TakeTurns(size_t level, size_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  // The same, and they pass what is less urgent.
  void CountTurn(size_t level, size_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  // Nothing is owed to a line in which nothing waits.
  void ForgetDebt(size_t level) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  bool lines_empty() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  void NoteUrgent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  // What comes next is of the batch of which a task was taken last.
  bool ContinuesBatch() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  // The planted bug: the second goes to the front.
  static void SwapFirst(ItemList& line);
  // Takes it out of where it is and lets the next of its lane join the line.
  void Remove(Task* task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  // Lets those that wait in the lane join the line, as far as there is room.
  void Refill(Lane& lane) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  // Lets closures that were taken leave the line as far as they have started.
  void SettleTaken() ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  void FinishTaken(size_t closures) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  // What everything here begins with: what has started leaves, what was posted joins.
  void TakePosts(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  void CountClosuresOut(uint64_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_);
  Lane& LaneOf(const Task& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(intake_) {
    return task.lane != nullptr ? *task.lane : own_lanes_[LevelOf(task.priority)];
  }
  static constexpr size_t LevelOf(Priority priority) { return static_cast<size_t>(priority); }
  static constexpr size_t kClosures = static_cast<size_t>(Priority::kDefault);

  const std::atomic<uint64_t>& closures_started_;
  PostList posts_;
  std::atomic<bool> others_posted_{false};
  std::atomic<bool> urgent_{false};

  mutable Mutex intake_;
  // Of each priority: its line, how many of more urgent ones were taken while it waits and are not
  // made up for by a turn, and this process's lane.
  std::array<ItemList, kPriorities> lines_ ABSL_GUARDED_BY(intake_);
  std::array<size_t, kPriorities> passed_by_ ABSL_GUARDED_BY(intake_) = {};
  std::array<Lane, kPriorities> own_lanes_ ABSL_GUARDED_BY(intake_);
  // That of the task that was taken last, and its level.
  std::shared_ptr<TaskBatch> batch_ ABSL_GUARDED_BY(intake_);
  size_t batch_level_ ABSL_GUARDED_BY(intake_) = 0;
  absl::flat_hash_set<Lane*> waiting_lanes_
      ABSL_GUARDED_BY(intake_);  // whose `waiting` is not empty
  // Closures that Pop took and that still count as standing in the line, and how many had started
  // before the first of them.
  size_t taken_ ABSL_GUARDED_BY(intake_) = 0;
  uint64_t started_before_ ABSL_GUARDED_BY(intake_) = 0;
  // Of closures: how many came in and went out; and since when those that are here have waited.
  uint64_t closures_in_ ABSL_GUARDED_BY(intake_) = 0;
  uint64_t closures_out_ ABSL_GUARDED_BY(intake_) = 0;
  std::deque<Epoch> epochs_ ABSL_GUARDED_BY(intake_);
  // No queued task has an earlier one; those that have left may have had it.
  absl::Time earliest_deadline_ ABSL_GUARDED_BY(intake_) = absl::InfiniteFuture();
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_TASK_QUEUE_H_

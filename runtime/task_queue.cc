#include "runloop/runtime/task_queue.h"

#include <algorithm>
#include <utility>

#include "runloop/runtime/planted_bugs.h"

namespace runloop::internal {
namespace {

// What head_ holds once the list is closed: no task has this address.
Task* const kClosed = reinterpret_cast<Task*>(uintptr_t{1});

}  // namespace

// Sequentially consistent: whoever pushes and then finds the loop awake, and the loop that
// announces sleep and then finds the list empty, must not both be right (RuntimeCore::Post,
// RunSlice).
bool PostList::Push(Task* task) {
  Task* head = head_.load(std::memory_order_relaxed);
  do {
    if (head == kClosed) return false;
    task->next_ = head;
  } while (!head_.compare_exchange_weak(head, task, std::memory_order_seq_cst,
                                        std::memory_order_relaxed));
  return true;
}

Task* PostList::Take() {
  Task* head = head_.load(std::memory_order_seq_cst);
  while (head != nullptr && head != kClosed) {
    if (head_.compare_exchange_weak(head, nullptr, std::memory_order_seq_cst)) return Reverse(head);
  }
  return nullptr;
}

Task* PostList::Close() {
  Task* const head = head_.exchange(kClosed, std::memory_order_seq_cst);
  return head == kClosed ? nullptr : Reverse(head);
}

bool PostList::empty() const {
  Task* const head = head_.load(std::memory_order_seq_cst);
  return head == nullptr || head == kClosed;
}

Task* PostList::Reverse(Task* newest) {
  Task* oldest = nullptr;
  while (newest != nullptr) {
    Task* const next = std::exchange(newest->next_, oldest);
    oldest = std::exchange(newest, next);
  }
  return oldest;
}

void TaskQueue::Append(TaskList& list, Task* task) {
  task->next_ = nullptr;
  task->previous_ = list.last;
  (list.last == nullptr ? list.first : list.last->next_) = task;
  list.last = task;
}

void TaskQueue::Unlink(TaskList& list, Task* task) {
  (task->previous_ == nullptr ? list.first : task->previous_->next_) = task->next_;
  (task->next_ == nullptr ? list.last : task->next_->previous_) = task->previous_;
  task->next_ = task->previous_ = nullptr;
}

void TaskQueue::Admit(Task* oldest, absl::Time now) {
  while (oldest != nullptr) {
    Task* const task = oldest;
    oldest = task->next_;
    task->admitted_at_ = now;
    earliest_deadline_ = std::min(earliest_deadline_, task->deadline);
    Lane& lane = LaneOf(*task);
    if (lane.in_line < kLaneDepth) {  // then none waits in it
      ++lane.in_line;
      task->place_ = Task::Place::kLine;
      Append(line_, task);
    } else {
      if (lane.waiting.first == nullptr) waiting_lanes_.insert(&lane);
      task->place_ = Task::Place::kLane;
      Append(lane.waiting, task);
    }
  }
}

void TaskQueue::Remove(Task* task) {
  Lane& lane = LaneOf(*task);
  if (std::exchange(task->place_, Task::Place::kNone) == Task::Place::kLane) {
    Unlink(lane.waiting, task);
    if (lane.waiting.first == nullptr) waiting_lanes_.erase(&lane);
    return;
  }
  Unlink(line_, task);
  Task* const next = lane.waiting.first;
  if (next == nullptr) {
    --lane.in_line;
    return;
  }
  Unlink(lane.waiting, next);
  if (lane.waiting.first == nullptr) waiting_lanes_.erase(&lane);
  next->place_ = Task::Place::kLine;
  Append(line_, next);
}

void TaskQueue::Intake(absl::Time now) {
  absl::MutexLock lock(&intake_);
  Admit(posts_.Take(), now);
}

void TaskQueue::Close(absl::Time now) {
  absl::MutexLock lock(&intake_);
  Admit(posts_.Close(), now);
}

Task* TaskQueue::Pop(absl::Time now) {
  absl::MutexLock lock(&intake_);
  Admit(posts_.Take(), now);
  Task* task = line_.first;
  if (Planted(PlantedBug::kSwappedOrder) && task && task->next_) task = task->next_;
  if (task != nullptr) Remove(task);
  return task;
}

bool TaskQueue::Take(Task& task, absl::Time now) {
  absl::MutexLock lock(&intake_);
  Admit(posts_.Take(), now);
  if (task.place_ == Task::Place::kNone) return false;
  Remove(&task);
  return true;
}

std::vector<Task*> TaskQueue::TakeIf(absl::Time now, const Lane* only,
                                     absl::FunctionRef<bool(Task&)> wanted) {
  std::vector<Task*> taken;
  absl::MutexLock lock(&intake_);
  Admit(posts_.Take(), now);
  absl::Time earliest = absl::InfiniteFuture();
  auto look = [&](const TaskList& list) {
    for (Task* task = list.first; task != nullptr; task = task->next_) {
      if (wanted(*task)) {
        taken.push_back(task);
      } else {
        earliest = std::min(earliest, task->deadline);
      }
    }
  };
  look(line_);
  for (Lane* const lane : waiting_lanes_) {
    if (only == nullptr || lane == only) look(lane->waiting);
  }
  if (only == nullptr) earliest_deadline_ = earliest;
  // From the back, so that none of them joins the line first.
  for (auto task = taken.rbegin(); task != taken.rend(); ++task) Remove(*task);
  return taken;
}

bool TaskQueue::Replace(Task& old, Task* task, absl::Time now) {
  absl::MutexLock lock(&intake_);
  Admit(posts_.Take(), now);
  if (old.place_ == Task::Place::kNone) return false;
  TaskList& list = old.place_ == Task::Place::kLine ? line_ : LaneOf(old).waiting;
  task->place_ = std::exchange(old.place_, Task::Place::kNone);
  task->admitted_at_ = now;
  earliest_deadline_ = std::min(earliest_deadline_, task->deadline);
  task->next_ = std::exchange(old.next_, nullptr);
  task->previous_ = std::exchange(old.previous_, nullptr);
  (task->previous_ == nullptr ? list.first : task->previous_->next_) = task;
  (task->next_ == nullptr ? list.last : task->next_->previous_) = task;
  return true;
}

bool TaskQueue::empty() const {
  absl::MutexLock lock(&intake_);
  // Lanes wait only behind the line.
  return line_.first == nullptr && posts_.empty();
}

absl::Time TaskQueue::OldestIntake(absl::Time now) {
  absl::MutexLock lock(&intake_);
  Admit(posts_.Take(), now);
  absl::Time oldest = absl::InfiniteFuture();
  for (Task* task = line_.first; task != nullptr; task = task->next_) {
    oldest = std::min(oldest, task->admitted_at_);
  }
  return oldest;  // those that wait in a lane came after those of it in the line
}

bool TaskQueue::MayHaveExpired(absl::Time now) const {
  absl::MutexLock lock(&intake_);
  return earliest_deadline_ <= now;
}

}  // namespace runloop::internal

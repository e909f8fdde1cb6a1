#include "runloop/runtime/task_queue.h"

#include <algorithm>
#include <utility>

#include "runloop/runtime/operation_registry.h"
#include "runloop/runtime/planted_bugs.h"

namespace runloop::internal {
namespace {

// While the thread is stuck the service thread does intake every few milliseconds: so many of these
// are told apart.
constexpr size_t kMostEpochs = 256;

}  // namespace

void TaskQueue::Join(QueueItem* item, Lane& lane) {
  if (lane.in_line < kLaneDepth) {  // then none waits in it
    ++lane.in_line;
    line_.Append(item);
    if (item->is_closure()) return;
    auto* const task = static_cast<Task*>(item);
    task->place_ = Task::Place::kLine;
    task->Prefetch();
  } else {
    if (lane.waiting.empty()) waiting_lanes_.insert(&lane);
    if (!item->is_closure()) static_cast<Task*>(item)->place_ = Task::Place::kLane;
    lane.waiting.Append(item);
  }
}

void TaskQueue::Admit(ItemList posted, absl::Time now) {
  const size_t closures = posted.size - posted.tasks;
  while (posted.tasks > 0) {
    QueueItem* const item = posted.first;
    posted.Unlink(item);
    if (item->is_closure()) {
      Join(item, own_lane_);
      continue;
    }
    auto* const task = static_cast<Task*>(item);
    task->admitted_at_ = now;
    earliest_deadline_ = std::min(earliest_deadline_, task->deadline);
    Join(task, LaneOf(*task));
  }
  // The rest is closures.
  if (!posted.empty()) {
    if (own_lane_.waiting.empty()) waiting_lanes_.insert(&own_lane_);
    own_lane_.waiting.Splice(posted);
    Refill(own_lane_);
  }
  if (closures == 0) return;
  closures_in_ += closures;
  if (epochs_.size() < kMostEpochs) {
    epochs_.push_back({.last = closures_in_, .at = now});
  } else {
    epochs_.back().last = closures_in_;
  }
}

void TaskQueue::Remove(Task* task) {
  Lane& lane = LaneOf(*task);
  if (std::exchange(task->place_, Task::Place::kNone) == Task::Place::kLane) {
    lane.waiting.Unlink(task);
    if (lane.waiting.empty()) waiting_lanes_.erase(&lane);
    return;
  }
  line_.Unlink(task);
  --lane.in_line;
  Refill(lane);
}

void TaskQueue::Refill(Lane& lane) {
  if (lane.waiting.empty()) return;
  while (lane.in_line < kLaneDepth && !lane.waiting.empty()) {
    ItemList next = lane.waiting.TakeClosures(kLaneDepth - lane.in_line);
    if (next.empty()) {
      auto* const task = static_cast<Task*>(lane.waiting.first);
      lane.waiting.Unlink(task);
      task->place_ = Task::Place::kLine;
      task->Prefetch();
      next.Append(task);
    }
    lane.in_line += next.size;
    line_.Splice(next);
  }
  if (lane.waiting.empty()) waiting_lanes_.erase(&lane);
}

void TaskQueue::FinishTaken(size_t closures) {
  if (closures == 0) return;
  taken_ -= closures;
  own_lane_.in_line -= closures;
  Refill(own_lane_);
}

void TaskQueue::SettleTaken() {
  if (taken_ == 0) return;
  const uint64_t started = closures_started_.load(std::memory_order_acquire) - started_before_;
  started_before_ += started;
  FinishTaken(started);
}

void TaskQueue::TakePosts(absl::Time now) {
  SettleTaken();
  if (others_have_posts()) others_posted_.store(false, std::memory_order_relaxed);
  if (posts_.empty()) return;
  Admit(posts_.Take(), now);
}

void TaskQueue::CountClosuresOut(uint64_t count) {
  closures_out_ += count;
  while (!epochs_.empty() && epochs_.front().last <= closures_out_) epochs_.pop_front();
}

void TaskQueue::Intake(absl::Time now) {
  absl::MutexLock lock(&intake_);
  TakePosts(now);
}

void TaskQueue::Close(absl::Time now) {
  absl::MutexLock lock(&intake_);
  SettleTaken();
  Admit(posts_.Close(), now);
}

TaskQueue::Next TaskQueue::Pop(absl::Time now) {
  absl::MutexLock lock(&intake_);
  TakePosts(now);
  size_t most = kLaneDepth;
  if (Planted(PlantedBug::kSwappedOrder) && line_.size > 1) {
    // The second goes to the front, alone.
    QueueItem* const first = line_.first;
    line_.Unlink(first);
    ItemList swapped;
    QueueItem* const second = line_.first;
    line_.Unlink(second);
    swapped.Append(second);
    swapped.Append(first);
    swapped.Splice(line_);
    line_ = swapped;
    most = 1;
  }
  if (line_.empty()) return {};
  if (!line_.first->is_closure()) {
    auto* const task = static_cast<Task*>(line_.first);
    Remove(task);
    if (line_.first != nullptr && !line_.first->is_closure()) {
      const auto& next = static_cast<const Task&>(*line_.first);
      __builtin_prefetch(next.payload);
      if (next.operation != nullptr) next.operation->Prefetch();
    }
    return {.task = task};
  }
  const ItemList closures = line_.TakeClosures(most);
  taken_ = closures.size;
  started_before_ = closures_started_.load(std::memory_order_relaxed);
  CountClosuresOut(taken_);
  return {.closures = static_cast<ClosureNode*>(closures.first)};
}

ClosureNode* TaskQueue::TakeClosures(absl::Time now) {
  ItemList taken;
  absl::MutexLock lock(&intake_);
  TakePosts(now);
  FinishTaken(taken_);  // the caller abandons those that have not started
  // Those in the line are older than those in the lane.
  for (ItemList* const list : {&line_, &own_lane_.waiting}) {
    for (QueueItem *item = list->first, *next; item != nullptr; item = next) {
      next = ItemList::Next(*item);
      if (!item->is_closure()) continue;
      list->Unlink(item);
      if (list == &line_) --own_lane_.in_line;
      taken.Append(item);
    }
  }
  CountClosuresOut(taken.size);
  if (own_lane_.waiting.empty()) waiting_lanes_.erase(&own_lane_);
  Refill(own_lane_);
  return static_cast<ClosureNode*>(taken.first);
}

bool TaskQueue::Take(Task& task, absl::Time now) {
  absl::MutexLock lock(&intake_);
  TakePosts(now);
  if (task.place_ == Task::Place::kNone) return false;
  Remove(&task);
  return true;
}

std::vector<Task*> TaskQueue::TakeIf(absl::Time now, const Lane* only,
                                     absl::FunctionRef<bool(Task&)> wanted) {
  std::vector<Task*> taken;
  absl::MutexLock lock(&intake_);
  TakePosts(now);
  absl::Time earliest = absl::InfiniteFuture();
  auto look = [&](const ItemList& list) {
    for (QueueItem* item = list.first; item != nullptr; item = item->next_) {
      if (item->is_closure()) continue;
      auto& task = static_cast<Task&>(*item);
      if (wanted(task)) {
        taken.push_back(&task);
      } else {
        earliest = std::min(earliest, task.deadline);
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
  TakePosts(now);
  if (old.place_ == Task::Place::kNone) return false;
  ItemList& list = old.place_ == Task::Place::kLine ? line_ : LaneOf(old).waiting;
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
  return line_.empty() && taken_ == 0 && posts_.empty();
}

absl::Time TaskQueue::OldestIntake(absl::Time now) {
  absl::MutexLock lock(&intake_);
  TakePosts(now);
  absl::Time oldest = epochs_.empty() ? absl::InfiniteFuture() : epochs_.front().at;
  for (QueueItem* item = line_.first; item != nullptr; item = item->next_) {
    if (!item->is_closure()) oldest = std::min(oldest, static_cast<Task*>(item)->admitted_at_);
  }
  return oldest;  // those that wait in a lane came after those of it in the line
}

void TaskQueue::LookAtFirst(absl::Time now, size_t most,
                            absl::FunctionRef<void(const Task*, const ClosureNode*)> look) {
  absl::MutexLock lock(&intake_);
  TakePosts(now);
  for (QueueItem* item = line_.first; item != nullptr && most > 0; item = item->next_, --most) {
    if (item->is_closure()) {
      look(nullptr, static_cast<ClosureNode*>(item));
    } else {
      look(static_cast<Task*>(item), nullptr);
    }
  }
}

bool TaskQueue::MayHaveExpired(absl::Time now) const {
  absl::MutexLock lock(&intake_);
  return earliest_deadline_ <= now;
}

}  // namespace runloop::internal

#include "runloop/runtime/task_queue.h"

#include <algorithm>
#include <utility>

#include "runloop/runtime/planted_bugs.h"

namespace runloop::internal {
namespace {

// While the thread is stuck the service thread does intake every few milliseconds: so many of these
// are told apart.
constexpr size_t kMostEpochs = 256;

}  // namespace

void ItemList::Append(QueueItem* item) {
  item->next_ = nullptr;
  item->previous_ = last;
  (last == nullptr ? first : last->next_) = item;
  last = item;
}

void ItemList::Unlink(QueueItem* item) {
  (item->previous_ == nullptr ? first : item->previous_->next_) = item->next_;
  (item->next_ == nullptr ? last : item->next_->previous_) = item->previous_;
  item->next_ = item->previous_ = nullptr;
}

Lane& TaskQueue::LaneOf(const QueueItem& item) {
  if (item.is_closure()) return own_lane_;
  Lane* const lane = static_cast<const Task&>(item).lane;
  return lane != nullptr ? *lane : own_lane_;
}

void TaskQueue::Admit(QueueItem* oldest, absl::Time now) {
  const uint64_t closures_before = closures_in_;
  while (oldest != nullptr) {
    QueueItem* const item = oldest;
    oldest = item->next_;
    Lane* lane = &own_lane_;
    if (item->is_closure()) {
      ++closures_in_;
    } else {
      auto* const task = static_cast<Task*>(item);
      task->admitted_at_ = now;
      earliest_deadline_ = std::min(earliest_deadline_, task->deadline);
      if (task->lane != nullptr) lane = task->lane;
    }
    if (lane->in_line < kLaneDepth) {  // then none waits in it
      ++lane->in_line;
      item->place_ = QueueItem::Place::kLine;
      line_.Append(item);
    } else {
      if (lane->waiting.first == nullptr) waiting_lanes_.insert(lane);
      item->place_ = QueueItem::Place::kLane;
      lane->waiting.Append(item);
    }
  }
  if (closures_in_ == closures_before) return;
  if (epochs_.size() < kMostEpochs) {
    epochs_.push_back({.last = closures_in_, .at = now});
  } else {
    epochs_.back().last = closures_in_;
  }
}

void TaskQueue::Remove(QueueItem* item) {
  Lane& lane = LaneOf(*item);
  if (std::exchange(item->place_, QueueItem::Place::kNone) == QueueItem::Place::kLane) {
    lane.waiting.Unlink(item);
    if (lane.waiting.first == nullptr) waiting_lanes_.erase(&lane);
    return;
  }
  line_.Unlink(item);
  --lane.in_line;
  Refill(lane);
}

void TaskQueue::Refill(Lane& lane) {
  if (lane.waiting.first == nullptr) return;
  while (lane.in_line < kLaneDepth && lane.waiting.first != nullptr) {
    QueueItem* const next = lane.waiting.first;
    lane.waiting.Unlink(next);
    next->place_ = QueueItem::Place::kLine;
    line_.Append(next);
    ++lane.in_line;
  }
  if (lane.waiting.first == nullptr) waiting_lanes_.erase(&lane);
}

void TaskQueue::FinishTaken(int closures) {
  if (closures == 0) return;
  taken_ -= closures;
  own_lane_.in_line -= closures;
  Refill(own_lane_);
}

void TaskQueue::SettleTaken() {
  if (taken_ == 0) return;
  const auto started =
      static_cast<int>(closures_started_.load(std::memory_order_acquire) - started_before_);
  started_before_ += static_cast<uint64_t>(started);
  FinishTaken(started);
}

void TaskQueue::TakePosts(absl::Time now) {
  SettleTaken();
  others_posted_.store(false, std::memory_order_relaxed);
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
  QueueItem* first = line_.first;
  if (Planted(PlantedBug::kSwappedOrder) && first && first->next_) {
    // Exchanged with the first.
    QueueItem* const second = first->next_;
    line_.Unlink(second);
    second->next_ = first;
    first->previous_ = second;
    line_.first = first = second;
  }
  if (first == nullptr) return {};
  if (!first->is_closure()) {
    Remove(first);
    return {.task = static_cast<Task*>(first)};
  }
  QueueItem* last = first;
  first->place_ = QueueItem::Place::kNone;
  taken_ = 1;
  started_before_ = closures_started_.load(std::memory_order_relaxed);
  while (last->next_ != nullptr && last->next_->is_closure() &&
         !Planted(PlantedBug::kSwappedOrder)) {
    last = last->next_;
    last->place_ = QueueItem::Place::kNone;
    ++taken_;
  }
  line_.first = std::exchange(last->next_, nullptr);
  (line_.first == nullptr ? line_.last : line_.first->previous_) = nullptr;
  CountClosuresOut(static_cast<uint64_t>(taken_));
  return {.closures = static_cast<ClosureNode*>(first)};
}

ClosureNode* TaskQueue::TakeClosures(absl::Time now) {
  ItemList taken;
  absl::MutexLock lock(&intake_);
  TakePosts(now);
  FinishTaken(taken_);  // the caller abandons those that have not started
  // Those in the line are older than those in the lane.
  for (ItemList* const list : {&line_, &own_lane_.waiting}) {
    for (QueueItem *item = list->first, *next; item != nullptr; item = next) {
      next = item->next_;
      if (!item->is_closure()) continue;
      list->Unlink(item);
      if (std::exchange(item->place_, QueueItem::Place::kNone) == QueueItem::Place::kLine) {
        --own_lane_.in_line;
      }
      taken.Append(item);
      CountClosuresOut(1);
    }
  }
  if (own_lane_.waiting.first == nullptr) waiting_lanes_.erase(&own_lane_);
  Refill(own_lane_);
  return static_cast<ClosureNode*>(taken.first);
}

bool TaskQueue::Take(Task& task, absl::Time now) {
  absl::MutexLock lock(&intake_);
  TakePosts(now);
  if (task.place_ == QueueItem::Place::kNone) return false;
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
  if (old.place_ == QueueItem::Place::kNone) return false;
  ItemList& list = old.place_ == QueueItem::Place::kLine ? line_ : LaneOf(old).waiting;
  task->place_ = std::exchange(old.place_, QueueItem::Place::kNone);
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
  return line_.first == nullptr && taken_ == 0 && posts_.empty();
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

bool TaskQueue::MayHaveExpired(absl::Time now) const {
  absl::MutexLock lock(&intake_);
  return earliest_deadline_ <= now;
}

}  // namespace runloop::internal

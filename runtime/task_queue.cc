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

TaskQueue::TaskQueue(const std::atomic<uint64_t>& closures_started)
    : closures_started_(closures_started) {
  MutexLock lock(&intake_);
  for (size_t level = 0; level < own_lanes_.size(); ++level) {
    own_lanes_[level].priority = static_cast<Priority>(level);
  }
}

bool TaskQueue::ContinuesLine(const ItemList& line, const QueueItem* item) const {
  if (item->is_closure() || line.last == nullptr || line.last->is_closure()) return false;
  const TaskBatch* const batch = static_cast<const Task*>(item)->batch.get();
  return batch != nullptr && static_cast<const Task*>(line.last)->batch.get() == batch;
}

void TaskQueue::Join(QueueItem* item, Lane& lane) {
  ItemList& line = lines_[LevelOf(lane.priority)];
  if (lane.waiting.empty() && (lane.in_line < kLaneDepth || ContinuesLine(line, item))) {
    ++lane.in_line;
    line.Append(item);
    if (item->is_closure()) return;
    auto* const task = static_cast<Task*>(item);
    task->place_ = Task::Place::kLine;
    if (lane.in_line <= kLaneDepth) task->Prefetch();
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
      Join(item, own_lanes_[kClosures]);
      continue;
    }
    auto* const task = static_cast<Task*>(item);
    task->admitted_at_ = now;
    earliest_deadline_ = std::min(earliest_deadline_, task->deadline);
    Join(task, LaneOf(*task));
  }
  // The rest is closures.
  if (!posted.empty()) {
    Lane& lane = own_lanes_[kClosures];
    if (lane.waiting.empty()) waiting_lanes_.insert(&lane);
    lane.waiting.Splice(posted);
    Refill(lane);
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
  const size_t level = LevelOf(lane.priority);
  lines_[level].Unlink(task);
  --lane.in_line;
  Refill(lane);
  ForgetDebt(level);
  NoteUrgent();
}

void TaskQueue::ForgetDebt(size_t level) {
  if (!Waits(level)) passed_by_[level] = 0;
}

void TaskQueue::Refill(Lane& lane) {
  if (lane.waiting.empty()) return;
  ItemList& line = lines_[LevelOf(lane.priority)];
  while (!lane.waiting.empty() &&
         (lane.in_line < kLaneDepth || ContinuesLine(line, lane.waiting.first))) {
    ItemList next;
    if (lane.in_line < kLaneDepth) next = lane.waiting.TakeClosures(kLaneDepth - lane.in_line);
    if (next.empty()) {
      auto* const task = static_cast<Task*>(lane.waiting.first);
      lane.waiting.Unlink(task);
      task->place_ = Task::Place::kLine;
      if (lane.in_line < kLaneDepth) task->Prefetch();
      next.Append(task);
    }
    lane.in_line += next.size;
    line.Splice(next);
  }
  if (lane.waiting.empty()) waiting_lanes_.erase(&lane);
}

void TaskQueue::FinishTaken(size_t closures) {
  if (closures == 0) return;
  taken_ -= closures;
  own_lanes_[kClosures].in_line -= closures;
  Refill(own_lanes_[kClosures]);
  ForgetDebt(kClosures);
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
  NoteUrgent();
}

void TaskQueue::NoteUrgent() {
  const bool urgent = !lines_[LevelOf(Priority::kInteractive)].empty() || ContinuesBatch();
  if (urgent_.load(std::memory_order_relaxed) != urgent) {
    urgent_.store(urgent, std::memory_order_relaxed);
  }
}

bool TaskQueue::Waits(size_t level) const {
  return !lines_[level].empty() || (level == kClosures && taken_ > 0);
}

std::optional<size_t> TaskQueue::NextLevel() const {
  std::optional<size_t> next;
  for (size_t level = 0; level < lines_.size(); ++level) {
    if (!Waits(level)) continue;
    const bool has_turn =
        passed_by_[level] + 1 >= kTurnEvery[level] && !Planted(PlantedBug::kStarvedLine);
    if (!next.has_value() || has_turn) next = level;
  }
  return next;
}

void TaskQueue::TakeTurns(size_t level, size_t count) {
  passed_by_[level] =
      Waits(level) ? passed_by_[level] - std::min(passed_by_[level], kTurnEvery[level] * count) : 0;
}

void TaskQueue::CountTurn(size_t level, size_t count) {
  TakeTurns(level, count);
  for (size_t other = level + 1; other < lines_.size(); ++other) {
    if (Waits(other)) {
      passed_by_[other] += count;
    } else {
      passed_by_[other] = 0;
    }
  }
}

bool TaskQueue::lines_empty() const {
  return std::all_of(lines_.begin(), lines_.end(),
                     [](const ItemList& line) { return line.empty(); });
}

void TaskQueue::CountClosuresOut(uint64_t count) {
  closures_out_ += count;
  while (!epochs_.empty() && epochs_.front().last <= closures_out_) epochs_.pop_front();
}

void TaskQueue::Intake(absl::Time now) {
  MutexLock lock(&intake_);
  TakePosts(now);
}

void TaskQueue::Close(absl::Time now) {
  MutexLock lock(&intake_);
  SettleTaken();
  Admit(posts_.Close(), now);
}

TaskQueue::Next TaskQueue::Pop(absl::Time now, bool closures_in_hand) {
  MutexLock lock(&intake_);
  TakePosts(now);
  const std::optional<size_t> level = ContinuesBatch() ? batch_level_ : NextLevel();
  if (!level.has_value()) return {};
  if (closures_in_hand && *level == kClosures) {
    TakeTurns(kClosures, 1);  // they were counted when they were taken
    return {};
  }
  ItemList& line = lines_[*level];
  const bool swaps = Planted(PlantedBug::kSwappedOrder) && line.size > 1;
  if (swaps) SwapFirst(line);
  if (!line.first->is_closure()) {
    auto* const task = static_cast<Task*>(line.first);
    Remove(task);
    CountTurn(*level, 1);
    batch_ = task->batch;
    batch_level_ = *level;
    NoteUrgent();
    if (line.first != nullptr && !line.first->is_closure()) {
      const auto& next = static_cast<const Task&>(*line.first);
      __builtin_prefetch(next.payload);
      if (next.operation != nullptr) next.operation->Prefetch();
    }
    return {.task = task};
  }
  batch_ = nullptr;
  size_t most = swaps || urgent() ? 1 : kLaneDepth;
  for (size_t other = *level + 1; other < lines_.size(); ++other) {
    if (!lines_[other].empty()) {
      most = std::clamp<size_t>(kTurnEvery[other] - 1 - passed_by_[other], 1, most);
    }
  }
  const ItemList closures = line.TakeClosures(most);
  taken_ = closures.size;
  CountTurn(*level, closures.size);
  started_before_ = closures_started_.load(std::memory_order_relaxed);
  CountClosuresOut(taken_);
  return {.closures = static_cast<ClosureNode*>(closures.first)};
}

bool TaskQueue::ContinuesBatch() const {
  if (batch_ == nullptr || Planted(PlantedBug::kSplitBatch)) return false;
  const QueueItem* const first = lines_[batch_level_].first;
  return first != nullptr && !first->is_closure() &&
         static_cast<const Task*>(first)->batch == batch_;
}

void TaskQueue::SwapFirst(ItemList& line) {
  QueueItem* const first = line.first;
  line.Unlink(first);
  ItemList swapped;
  QueueItem* const second = line.first;
  line.Unlink(second);
  swapped.Append(second);
  swapped.Append(first);
  swapped.Splice(line);
  line = swapped;
}

ClosureNode* TaskQueue::TakeClosures(absl::Time now) {
  ItemList taken;
  MutexLock lock(&intake_);
  TakePosts(now);
  FinishTaken(taken_);  // the caller abandons those that have not started
  // Those in the line are older than those in the lane.
  ItemList& line = lines_[kClosures];
  Lane& lane = own_lanes_[kClosures];
  for (ItemList* const list : {&line, &lane.waiting}) {
    for (QueueItem *item = list->first, *next; item != nullptr; item = next) {
      next = ItemList::Next(*item);
      if (!item->is_closure()) continue;
      list->Unlink(item);
      if (list == &line) --lane.in_line;
      taken.Append(item);
    }
  }
  CountClosuresOut(taken.size);
  if (lane.waiting.empty()) waiting_lanes_.erase(&lane);
  Refill(lane);
  ForgetDebt(kClosures);
  return static_cast<ClosureNode*>(taken.first);
}

bool TaskQueue::Take(Task& task, absl::Time now) {
  MutexLock lock(&intake_);
  TakePosts(now);
  if (task.place_ == Task::Place::kNone) return false;
  Remove(&task);
  return true;
}

std::vector<Task*> TaskQueue::TakeIf(absl::Time now, const Lane* only,
                                     absl::FunctionRef<bool(Task&)> wanted) {
  std::vector<Task*> taken;
  MutexLock lock(&intake_);
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
  for (const ItemList& line : lines_) look(line);
  for (Lane* const lane : waiting_lanes_) {
    if (only == nullptr || lane == only) look(lane->waiting);
  }
  if (only == nullptr) earliest_deadline_ = earliest;
  // From the back, so that none of them joins the line first.
  for (auto task = taken.rbegin(); task != taken.rend(); ++task) Remove(*task);
  return taken;
}

bool TaskQueue::Replace(Task& old, Task* task, absl::Time now) {
  MutexLock lock(&intake_);
  TakePosts(now);
  if (old.place_ == Task::Place::kNone) return false;
  Lane& lane = LaneOf(old);
  ItemList& list = old.place_ == Task::Place::kLine ? lines_[LevelOf(lane.priority)] : lane.waiting;
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
  MutexLock lock(&intake_);
  // Lanes wait only behind the line.
  return lines_empty() && taken_ == 0 && posts_.empty();
}

absl::Time TaskQueue::OldestIntake(absl::Time now) {
  MutexLock lock(&intake_);
  TakePosts(now);
  absl::Time oldest = epochs_.empty() ? absl::InfiniteFuture() : epochs_.front().at;
  for (const ItemList& line : lines_) {
    for (QueueItem* item = line.first; item != nullptr; item = item->next_) {
      if (!item->is_closure()) oldest = std::min(oldest, static_cast<Task*>(item)->admitted_at_);
    }
  }
  return oldest;  // those that wait in a lane came after those of it in the line
}

void TaskQueue::LookAtFirst(absl::Time now, size_t most,
                            absl::FunctionRef<void(const Task*, const ClosureNode*)> look) {
  MutexLock lock(&intake_);
  TakePosts(now);
  const size_t first = ContinuesBatch() ? batch_level_ : 0;
  for (size_t i = 0; i < lines_.size(); ++i) {
    // The others stay in their order.
    const size_t level = i == 0 ? first : i <= first ? i - 1 : i;
    for (QueueItem* item = lines_[level].first; item != nullptr && most > 0;
         item = item->next_, --most) {
      if (item->is_closure()) {
        look(nullptr, static_cast<ClosureNode*>(item));
      } else {
        look(static_cast<Task*>(item), nullptr);
      }
    }
  }
}

bool TaskQueue::MayHaveExpired(absl::Time now) const {
  MutexLock lock(&intake_);
  return earliest_deadline_ <= now;
}

}  // namespace runloop::internal

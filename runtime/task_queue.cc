#include "runloop/runtime/task_queue.h"

#include <algorithm>
#include <utility>

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

void TaskQueue::Append(Task* oldest, absl::Time now) {
  while (oldest != nullptr) {
    Task* const task = oldest;
    oldest = std::exchange(task->next_, nullptr);
    task->sequence_ = next_sequence_++;
    task->admitted_at_ = now;
    earliest_deadline_ = std::min(earliest_deadline_, task->deadline);
    (last_ == nullptr ? first_ : last_->next_) = task;
    last_ = task;
  }
}

void TaskQueue::Intake(absl::Time now) {
  absl::MutexLock lock(&intake_);
  Append(posts_.Take(), now);
}

void TaskQueue::Close(absl::Time now) {
  absl::MutexLock lock(&intake_);
  Append(posts_.Close(), now);
}

TaskQueue::Popped TaskQueue::Pop(absl::Time now) {
  absl::MutexLock lock(&intake_);
  Append(posts_.Take(), now);
  Popped popped{.task = first_};
  if (first_ == nullptr) return popped;
  popped.admitted_at = first_->admitted_at_;
  first_ = std::exchange(first_->next_, nullptr);
  if (first_ == nullptr) last_ = nullptr;
  return popped;
}

bool TaskQueue::empty() const {
  absl::MutexLock lock(&intake_);
  return first_ == nullptr && posts_.empty();
}

absl::Time TaskQueue::OldestAdmitted(absl::Time now) {
  absl::MutexLock lock(&intake_);
  Append(posts_.Take(), now);
  return first_ == nullptr ? absl::InfiniteFuture() : first_->admitted_at_;
}

bool TaskQueue::MayHaveExpired(absl::Time now) const {
  absl::MutexLock lock(&intake_);
  return earliest_deadline_ <= now;
}

void TaskQueue::Look(absl::Time now, absl::FunctionRef<void(Task&)> visit) {
  absl::MutexLock lock(&intake_);
  Append(posts_.Take(), now);
  earliest_deadline_ = absl::InfiniteFuture();
  for (Task* task = first_; task != nullptr; task = task->next_) {
    visit(*task);
    if (task->deadline > now) earliest_deadline_ = std::min(earliest_deadline_, task->deadline);
  }
}

}  // namespace runloop::internal

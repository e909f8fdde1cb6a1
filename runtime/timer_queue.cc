#include "runloop/runtime/timer_queue.h"

#include <algorithm>

#include "runloop/runtime/lifecycle.h"
#include "runloop/runtime/task_queue.h"

namespace runloop::internal {
namespace {

// To whole nanoseconds, in which first_due_ and loops count, and no earlier.
absl::Time Whole(absl::Time due) {
  if (due == absl::InfiniteFuture()) return due;
  return absl::UnixEpoch() + absl::Ceil(due - absl::UnixEpoch(), absl::Nanoseconds(1));
}

}  // namespace

bool TimerQueue::Add(Task& task, absl::Time due) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return false;
  const Key key(Whole(due), ++last_number_);
  tasks_.emplace(key, &task);
  keys_[task.session.get()].emplace(&task, key);
  if (task.deadline != absl::InfiniteFuture()) deadlines_.insert(Whole(task.deadline));
  NoteFirst();
  return true;
}

void TimerQueue::NoteFirst() {
  // What is due in centuries is never due.
  first_due_.store(tasks_.empty() ? kNone : absl::ToUnixNanos(tasks_.begin()->first.first));
  rests_.store(tasks_.empty() && wake_at_ == absl::InfiniteFuture());
}

TimerQueue::Tasks::iterator TimerQueue::Find(Task& task) {
  const auto of_session = keys_.find(task.session.get());
  if (of_session == keys_.end()) return tasks_.end();
  const auto key = of_session->second.find(&task);
  return key == of_session->second.end() ? tasks_.end() : tasks_.find(key->second);
}

void TimerQueue::Erase(Tasks::iterator entry) {
  Task* const task = entry->second;
  const auto of_session = keys_.find(task->session.get());
  of_session->second.erase(task);
  if (of_session->second.empty()) keys_.erase(of_session);
  if (task->deadline != absl::InfiniteFuture()) {
    deadlines_.erase(deadlines_.find(Whole(task->deadline)));
  }
  tasks_.erase(entry);
}

void TimerQueue::JoinNow(Tasks::iterator entry) {
  Task* const task = entry->second;
  Erase(entry);
  // If it has ended, it goes the way of those that end in the queue.
  (void)lifecycle_.Due(*task);
  (void)queue_.Push(task);  // closed only after this
}

bool TimerQueue::JoinDue(absl::Time now, std::vector<Task*>& expired) {
  absl::MutexLock lock(&mutex_);
  int due = 0;
  for (; due < kMostAtOnce && !tasks_.empty(); ++due) {
    const auto [key, task] = *tasks_.begin();
    if (key.first > now) break;
    if (task->deadline > now) {
      JoinNow(tasks_.begin());
    } else {
      Erase(tasks_.begin());
      expired.push_back(task);
    }
  }
  NoteFirst();
  return due > 0;
}

bool TimerQueue::Join(Task& task) {
  absl::MutexLock lock(&mutex_);
  const auto entry = Find(task);
  if (entry == tasks_.end()) return false;
  JoinNow(entry);
  NoteFirst();
  return true;
}

bool TimerQueue::Take(Task& task) {
  if (rests()) return false;
  absl::MutexLock lock(&mutex_);
  const auto entry = Find(task);
  if (entry == tasks_.end()) return false;
  Erase(entry);
  NoteFirst();
  return true;
}

std::vector<Task*> TimerQueue::TakeIf(const Session* only, absl::FunctionRef<bool(Task&)> wanted) {
  std::vector<Task*> taken;
  if (rests()) return taken;
  absl::MutexLock lock(&mutex_);
  std::vector<Key> keys;
  if (only == nullptr) {
    for (const auto& [key, task] : tasks_) keys.push_back(key);
  } else if (const auto of_session = keys_.find(only); of_session != keys_.end()) {
    for (const auto& [task, key] : of_session->second) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
  }
  for (const Key& key : keys) {
    const auto entry = tasks_.find(key);
    if (!wanted(*entry->second)) continue;
    taken.push_back(entry->second);
    Erase(entry);
  }
  NoteFirst();
  return taken;
}

std::vector<Task*> TimerQueue::Close() {
  std::vector<Task*> taken;
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  for (const auto& [key, task] : tasks_) taken.push_back(task);
  tasks_.clear();
  keys_.clear();
  deadlines_.clear();
  NoteFirst();
  return taken;
}

absl::Time TimerQueue::earliest_deadline() const {
  absl::MutexLock lock(&mutex_);
  return deadlines_.empty() ? absl::InfiniteFuture() : *deadlines_.begin();
}

void TimerQueue::SetWake(absl::FunctionRef<void(absl::Time)> set) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return;
  absl::Time at = absl::InfiniteFuture();
  if (!tasks_.empty()) {
    const Key end(tasks_.begin()->first.first + kSlack, std::numeric_limits<uint64_t>::max());
    at = std::prev(tasks_.upper_bound(end))->first.first;
  }
  if (at == wake_at_) return;
  wake_at_ = at;
  NoteFirst();
  set(at);
}

}  // namespace runloop::internal

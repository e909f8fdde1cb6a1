#include "runloop/runtime/deferred_tasks.h"

#include <algorithm>
#include <utility>

namespace runloop::internal {

void DeferredTasks::Add(std::shared_ptr<OperationTask> task) {
  absl::MutexLock lock(&mutex_);
  const OperationTask* const key = task.get();
  tasks_.emplace(key, std::move(task));
}

void DeferredTasks::Remove(const OperationTask& task) {
  std::shared_ptr<OperationTask> removed;  // released outside the lock
  absl::MutexLock lock(&mutex_);
  const auto found = tasks_.find(&task);
  if (found == tasks_.end()) return;
  removed = std::move(found->second);
  tasks_.erase(found);
}

bool DeferredTasks::empty() const {
  absl::MutexLock lock(&mutex_);
  return tasks_.empty();
}

absl::Time DeferredTasks::earliest_deadline() const {
  absl::MutexLock lock(&mutex_);
  absl::Time earliest = absl::InfiniteFuture();
  for (const auto& [key, task] : tasks_) earliest = std::min(earliest, task->deadline);
  return earliest;
}

std::vector<std::shared_ptr<OperationTask>> DeferredTasks::Find(
    absl::FunctionRef<bool(const OperationTask&)> wanted) const {
  std::vector<std::shared_ptr<OperationTask>> found;
  absl::MutexLock lock(&mutex_);
  for (const auto& [key, task] : tasks_) {
    if (wanted(*task)) found.push_back(task);
  }
  return found;
}

}  // namespace runloop::internal

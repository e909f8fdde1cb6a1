#ifndef RUNLOOP_RUNTIME_DEFERRED_TASKS_H_
#define RUNLOOP_RUNTIME_DEFERRED_TASKS_H_

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/operation_task.h"

namespace runloop::internal {

// The invocations whose handlers returned without an outcome: kept here so that a deadline, the end
// of their session or of the runtime finds them. Any thread.
class DeferredTasks {
 public:
  void Add(std::shared_ptr<OperationTask> task);
  // It has its outcome, and that is delivered: a drain waits until then.
  void Remove(const OperationTask& task);

  bool empty() const;
  // When the first of them is due, or InfiniteFuture.
  absl::Time earliest_deadline() const;
  // Those that `wanted` says yes to. They stay.
  std::vector<std::shared_ptr<OperationTask>> Find(
      absl::FunctionRef<bool(const OperationTask&)> wanted) const;

 private:
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<const OperationTask*, std::shared_ptr<OperationTask>> tasks_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_DEFERRED_TASKS_H_

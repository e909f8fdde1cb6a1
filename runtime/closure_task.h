#ifndef RUNLOOP_RUNTIME_CLOSURE_TASK_H_
#define RUNLOOP_RUNTIME_CLOSURE_TASK_H_

// How closures become tasks: the templates behind LocalRuntimeContext. Not for use.

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/closure_node.h"
#include "runloop/runtime/ledger.h"
#include "runloop/runtime/task.h"
#include "runloop/runtime/wait_chain.h"

namespace runloop::internal {

class RuntimeCore;

// What the templates need of the core, whose header they must not include.
absl::Status PostTask(RuntimeCore& core, Task* task);
// A node for a closure that nobody waits for; null if it is refused.
ClosureNode* TakeClosureNode(RuntimeCore& core);
absl::Status WhyClosureRefused(RuntimeCore& core);
// Takes the node; an error means that it was refused, and the closure is destroyed.
absl::Status PostClosureNode(RuntimeCore& core, ClosureNode* node);
bool IsRuntimeThread(const RuntimeCore& core);
absl::Status EnterInPlace(RuntimeCore& core, Task& task);
void LeaveInPlace(RuntimeCore& core, Task& task, bool succeeded);
// INTERNAL (HANDLER_THREW) with the text of the exception that is being handled.
absl::Status CurrentExceptionStatus();

// A closure that nobody waits for, of another priority than the default one, whose closures are
// ClosureNodes. The queue owns it.
template <typename F>
class AsyncTask final : public Task {
 public:
  AsyncTask(RuntimeCore& core, F closure) : core_(core), closure_(std::move(closure)) {}

  RunResult Run() override {
    RunResult result = RunResult::kSucceeded;
    try {
      std::invoke(*std::move(closure_));
    } catch (...) {
      LogClosureThrew(core_);
      result = RunResult::kFailed;
    }
    closure_.reset();
    return result;
  }
  void Skip(const absl::Status&) override {}
  void Release() override { delete this; }

 private:
  RuntimeCore& core_;
  std::optional<F> closure_;  // destroyed when it has run
};

template <typename F>
absl::Status PostClosure(RuntimeCore& core, F closure, Priority priority, CallSite call_site) {
  if (priority != Priority::kDefault) {
    auto task = std::make_unique<AsyncTask<F>>(core, std::move(closure));
    task->priority = priority;
    task->call_site = call_site;
    absl::Status posted = PostTask(core, task.get());
    if (posted.ok()) (void)task.release();
    return posted;
  }
  ClosureNode* const node = TakeClosureNode(core);
  if (node == nullptr) return WhyClosureRefused(core);
  node->Emplace(std::move(closure), call_site);
  return PostClosureNode(core, node);
}

// The type of a blocking call's result: Status for void and Status, StatusOr<T> for StatusOr<T>,
// else StatusOr<R>.
template <typename R>
struct BlockingResult {
  using type = absl::StatusOr<R>;
};
template <>
struct BlockingResult<void> {
  using type = absl::Status;
};
template <>
struct BlockingResult<absl::Status> {
  using type = absl::Status;
};
template <typename T>
struct BlockingResult<absl::StatusOr<T>> {
  using type = absl::StatusOr<T>;
};

// Waiting for one task; the part of a blocking call that does not depend on types.
class BlockingWait {
 public:
  void Notify();
  // True if Notify was called in time.
  bool Wait(RuntimeCore& core, absl::Duration timeout);

 private:
  std::atomic<bool> done_{false};
  std::atomic<bool> sleeps_{false};  // the caller does, or is about to
  absl::Mutex mutex_;
  absl::CondVar changed_;
};

// Tries to end a task whose caller has waited long enough; the status to give the caller. OK: it
// has ended, and the caller is about to be told how.
absl::Status TimedOut(RuntimeCore& core, Task& task, absl::Duration timeout);
absl::Status NeverRan(OutcomeKind kind);

// Declares that the runtime of this thread, if it has one, waits for a closure of `core`: puts its
// chain into `task`, before that is posted.
void SetChain(Task& task);
// While it lives, passes on what waits for the caller. Keeps the task, by its own references.
class ClosureWait {
 public:
  ClosureWait(RuntimeCore& core, Task& task, absl::FunctionRef<void()> reference,
              std::function<void()> unreference);

 private:
  std::optional<WaitScope> scope_;
};

// Stands for a closure that runs in place, so that it is counted as any other.
class InPlaceTask final : public Task {
 public:
  RunResult Run() override { return RunResult::kTold; }
  void Skip(const absl::Status&) override {}
  void Release() override {}
};

// A closure whose caller waits. Owned by the caller and the queue together: the last of them
// destroys it. The closure itself is destroyed on the runtime thread in any case, as is the result
// if the caller has gone.
template <typename F>
class BlockingTask final : public Task {
 public:
  using R = std::invoke_result_t<F>;
  using Result = typename BlockingResult<R>::type;

  explicit BlockingTask(F closure) : closure_(std::move(closure)) {}

  RunResult Run() override {
    try {
      if constexpr (std::is_void_v<R>) {
        std::invoke(std::move(*closure_));
        result_.emplace(absl::OkStatus());
      } else {
        result_.emplace(std::invoke(std::move(*closure_)));
      }
    } catch (...) {
      result_.emplace(CurrentExceptionStatus());
    }
    closure_.reset();
    ran_ = true;
    return result_->ok() ? RunResult::kSucceeded : RunResult::kFailed;
  }

  void Skip(const absl::Status& why) override {
    result_.emplace(why);
    Publish();
  }

  void Release() override {
    closure_.reset();
    if (ran_) Publish();  // here and not in Run: whoever hears of it finds it counted
    Unreference();
  }

  Result Await(RuntimeCore& core, absl::Duration timeout) {
    if (!wait_.Wait(core, timeout)) {
      absl::Status timed_out = TimedOut(core, *this, timeout);
      // Whoever comes second of the caller leaving and the result arriving deals with the result.
      if (!timed_out.ok() && !settled_.exchange(true, std::memory_order_acq_rel)) return timed_out;
      wait_.Wait(core, absl::InfiniteDuration());
    }
    return *std::move(result_);
  }

  void Reference() { references_.fetch_add(1, std::memory_order_relaxed); }
  void Unreference() {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

 private:
  void Publish() {
    if (settled_.exchange(true, std::memory_order_acq_rel)) {
      result_.reset();  // the caller has gone
    }
    wait_.Notify();
  }

  std::optional<F> closure_;
  bool ran_ = false;              // the runtime thread only
  std::optional<Result> result_;  // written before settled_, read by the caller after the wait
  std::atomic<bool> settled_{false};
  std::atomic<int> references_{2};
  BlockingWait wait_;
};

template <typename F>
typename BlockingTask<F>::Result RunClosureBlocking(RuntimeCore& core, F closure,
                                                    absl::Duration timeout, Priority priority,
                                                    CallSite call_site) {
  using TaskType = BlockingTask<F>;
  if (IsRuntimeThread(core)) {
    InPlaceTask in_place;
    absl::Status entered = EnterInPlace(core, in_place);
    if (!entered.ok()) return entered;
    std::optional<typename TaskType::Result> result;
    try {
      if constexpr (std::is_void_v<typename TaskType::R>) {
        std::invoke(std::move(closure));
        result.emplace(absl::OkStatus());
      } else {
        result.emplace(std::invoke(std::move(closure)));
      }
    } catch (...) {
      result.emplace(CurrentExceptionStatus());
    }
    LeaveInPlace(core, in_place, result->ok());
    return *std::move(result);
  }
  auto* task = new TaskType(std::move(closure));
  task->priority = priority;
  task->call_site = call_site;
  SetChain(*task);
  absl::Status posted = PostTask(core, task);
  if (!posted.ok()) {
    task->Unreference();
    task->Unreference();
    return posted;
  }
  std::optional<typename TaskType::Result> result;
  {
    const ClosureWait wait(
        core, *task, [task] { task->Reference(); }, [task] { task->Unreference(); });
    result.emplace(task->Await(core, timeout));
  }
  task->Unreference();
  return *std::move(result);
}

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_CLOSURE_TASK_H_

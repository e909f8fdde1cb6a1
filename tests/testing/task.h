#ifndef RUNLOOP_TESTS_TESTING_TASK_H_
#define RUNLOOP_TESTS_TESTING_TASK_H_

#include <coroutine>
#include <deque>
#include <exception>
#include <memory>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "runloop/runtime/executor.h"

namespace runloop {

// A coroutine that begins at once and that no coroutine awaits. Its owner destroys it, ended or
// not.
class TestTask {
 public:
  struct promise_type {
    // From which on it may be destroyed.
    struct End {
      bool await_ready() noexcept { return false; }
      ABSL_ATTRIBUTE_NOINLINE void await_suspend(
          std::coroutine_handle<promise_type> coroutine) noexcept {
        const std::shared_ptr<absl::Notification> kept = coroutine.promise().ended;
        kept->Notify();
      }
      void await_resume() noexcept {}
    };
    TestTask get_return_object() {
      return TestTask(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_never initial_suspend() noexcept { return {}; }
    End final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }

    const std::shared_ptr<absl::Notification> ended = std::make_shared<absl::Notification>();
  };

  TestTask(TestTask&& other) noexcept
      : coroutine_(std::exchange(other.coroutine_, nullptr)), ended_(other.ended_) {}
  TestTask& operator=(TestTask&&) = delete;
  ~TestTask() {
    if (coroutine_) coroutine_.destroy();
  }

  bool ended() const { return ended_->HasBeenNotified(); }
  void AwaitEnd() const { ended_->WaitForNotification(); }

 private:
  explicit TestTask(std::coroutine_handle<promise_type> coroutine)
      : coroutine_(coroutine), ended_(coroutine.promise().ended) {}

  std::coroutine_handle<promise_type> coroutine_;
  const std::shared_ptr<absl::Notification> ended_;
};

// Work that the test runs itself. Thread-safe; the executors must not be used after it.
class ManualExecutor {
 public:
  Executor executor() {
    return [this](absl::AnyInvocable<void() &&> work) {
      absl::MutexLock lock(&mutex_);
      work_.push_back(std::move(work));
      changed_.SignalAll();
    };
  }
  void AwaitWork() {
    absl::MutexLock lock(&mutex_);
    while (work_.empty()) changed_.Wait(&mutex_);
  }
  // Waits for some, and runs it on the calling thread.
  void RunOne() {
    AwaitWork();
    absl::AnyInvocable<void() &&> first;
    {
      absl::MutexLock lock(&mutex_);
      first = std::move(work_.front());
      work_.pop_front();
    }
    std::move(first)();
  }
  bool idle() {
    absl::MutexLock lock(&mutex_);
    return work_.empty();
  }

 private:
  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::deque<absl::AnyInvocable<void() &&>> work_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop

#endif  // RUNLOOP_TESTS_TESTING_TASK_H_

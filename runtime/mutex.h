#ifndef RUNLOOP_RUNTIME_MUTEX_H_
#define RUNLOOP_RUNTIME_MUTEX_H_

#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/time/time.h"

namespace runloop::internal {

class CondVar;

// For what every dispatch locks; all else uses absl::Mutex, which does the same and costs three
// times as much, or ten times in a program that leaves its search for cycles of locks on, as it is
// by default (docs/decisions/mutexes.md).
class ABSL_LOCKABLE Mutex {
 public:
  using Condition = absl::FunctionRef<bool()>;

  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    if (awaiting_ != nullptr) WakeAwaiting();
    mutex_.unlock();
  }
  // Says to the compiler that this thread holds it.
  void AssertHeld() const ABSL_ASSERT_EXCLUSIVE_LOCK() {}

  // Leaves it to others until `condition`, which any thread that unlocks it looks at, with it held.
  // False: the condition does not hold, and has not for so long.
  bool AwaitWithTimeout(Condition condition, absl::Duration timeout)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(this);
  void Await(Condition condition) ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) {
    AwaitWithTimeout(condition, absl::InfiniteDuration());
  }

 private:
  friend class CondVar;
  struct Awaiting;

  void WakeAwaiting();

  std::mutex mutex_;
  Awaiting* awaiting_ = nullptr;  // threads in Await, a list
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(*mutex) {
    mutex_.Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// As absl::CondVar: who waits may be woken for nothing.
class CondVar {
 public:
  void Wait(Mutex* mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    WaitWithTimeout(mutex, absl::InfiniteDuration());
  }
  void WaitWithTimeout(Mutex* mutex, absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Signal() { changed_.notify_one(); }

 private:
  std::condition_variable changed_;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_MUTEX_H_

#ifndef RUNLOOP_TESTS_SEQUENCE_OTHER_THREAD_H_
#define RUNLOOP_TESTS_SEQUENCE_OTHER_THREAD_H_

#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"

namespace runloop::sequence {

// A thread that is not the runtime's, for calls that may come from any. One call at a time.
class OtherThread {
 public:
  OtherThread() : thread_([this] { Serve(); }) {}
  ~OtherThread() {
    Call([this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { over_ = true; });
    thread_.join();
  }

  // Runs it there and waits.
  void Call(absl::FunctionRef<void()> what) {
    absl::MutexLock lock(&mutex_);
    what_ = &what;
    changed_.SignalAll();
    while (what_ != nullptr) changed_.Wait(&mutex_);
  }

 private:
  void Serve() {
    for (;;) {
      const absl::FunctionRef<void()>* what;
      {
        absl::MutexLock lock(&mutex_);
        while (what_ == nullptr) changed_.Wait(&mutex_);
        what = what_;
      }
      (*what)();
      absl::MutexLock lock(&mutex_);
      what_ = nullptr;
      changed_.SignalAll();
      if (over_) return;
    }
  }

  absl::Mutex mutex_;
  absl::CondVar changed_;
  const absl::FunctionRef<void()>* what_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool over_ = false;  // its thread only
  std::thread thread_;
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_OTHER_THREAD_H_

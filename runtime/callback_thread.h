#ifndef RUNLOOP_RUNTIME_CALLBACK_THREAD_H_
#define RUNLOOP_RUNTIME_CALLBACK_THREAD_H_

#include <deque>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"

namespace runloop::internal {

// A thread for the callbacks of this process's subscribers, so that none of them runs on a thread
// that publishes. There is none before the first Post.
//
// Threads: Post from any; the destructor from any, also from the thread itself, which then ends
// once it has returned to it.
class CallbackThread {
 public:
  using Closure = absl::AnyInvocable<void() &&>;

  CallbackThread() = default;
  // Waits for the closure that runs; what has not begun is destroyed unrun.
  ~CallbackThread();
  CallbackThread(const CallbackThread&) = delete;
  CallbackThread& operator=(const CallbackThread&) = delete;

  // Runs closures one after the other, in the order of the calls.
  void Post(Closure closure);

 private:
  // Shared with the thread, which may outlive this.
  struct Shared {
    bool has_work() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return stop || !posted.empty(); }

    absl::Mutex mutex;
    bool stop ABSL_GUARDED_BY(mutex) = false;
    std::deque<Closure> posted ABSL_GUARDED_BY(mutex);
  };
  static void Run(const std::shared_ptr<Shared>& shared);

  const std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
  absl::Mutex mutex_;
  std::thread thread_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_CALLBACK_THREAD_H_

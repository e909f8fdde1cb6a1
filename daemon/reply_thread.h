#ifndef RUNLOOP_DAEMON_REPLY_THREAD_H_
#define RUNLOOP_DAEMON_REPLY_THREAD_H_

#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"

namespace runloop::daemon {

// Serializes and sends the replies of unary calls, since gRPC may write to the socket on the thread
// that finishes a call, and the runtime thread writes to none.
//
// Threads: Post from any; it never waits for a reply being sent. What is posted runs, in order, on
// the one thread of this object.
// Ownership: shared by the server and the invocations under way, which may end after the server:
// what is posted after Stop is destroyed at once.
class ReplyThread {
 public:
  using Closure = absl::AnyInvocable<void() &&>;

  ReplyThread();
  ~ReplyThread();
  ReplyThread(const ReplyThread&) = delete;
  ReplyThread& operator=(const ReplyThread&) = delete;

  // `closure` must not hold the last reference to this object.
  void Post(Closure closure);

  // Runs what was posted, then ends the thread. Idempotent; the owner's thread.
  void Stop();

 private:
  void Serve();

  absl::Mutex mutex_;
  absl::CondVar posted_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Closure> closures_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_REPLY_THREAD_H_

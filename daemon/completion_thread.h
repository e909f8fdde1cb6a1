#ifndef RUNLOOP_DAEMON_COMPLETION_THREAD_H_
#define RUNLOOP_DAEMON_COMPLETION_THREAD_H_

#include <grpcpp/alarm.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "runloop/runtime/adaptive_spin.h"

namespace runloop::daemon {

// What comes out of the completion queue.
class CompletionTag {
 public:
  virtual void Complete(bool ok) = 0;

 protected:
  ~CompletionTag() = default;
};

// The one thread of a host that polls gRPC: it serves every RPC of all its servers, and runs what
// other threads post to it, such as the outcomes of invocations. One, because each further thread
// that polls, also those of gRPC's callback API, is woken in turn for what concerns the others
// (docs/decisions/one-completion-queue.md).
//
// It never waits for the runtime thread, but for a moment in which an outcome is likely to come.
//
// Threads: Post from any; Start and Stop on the owner's; the rest on the completion-queue thread.
class CompletionThread : public std::enable_shared_from_this<CompletionThread> {
 public:
  using Closure = absl::AnyInvocable<void() &&>;

  CompletionThread();
  ~CompletionThread();
  CompletionThread(const CompletionThread&) = delete;
  CompletionThread& operator=(const CompletionThread&) = delete;

  // Makes the server that `builder` will build complete its RPCs on this thread. Before Start, and
  // before each further server is built.
  void AddTo(grpc::ServerBuilder& builder);

  // Begins to serve. Once, after the first server was built.
  void Start();

  // Runs `closure` on the thread, in the order of the calls. Destroyed unrun after Stop.
  void Post(Closure closure);

  // Ends the thread. The servers are shut down by then, so that every RPC has ended. Idempotent.
  void Stop();

  // What RPCs are requested with.
  grpc::ServerCompletionQueue* queue() const { return queue_.get(); }
  // Nothing may be started on the queue any more.
  bool stopping() const { return stopping_; }
  // What is being handled has dispatched something whose outcome may come at once.
  void ExpectPost() { expecting_ = true; }

 private:
  class WakeTag final : public CompletionTag {
   public:
    void Complete(bool) override {}
  };

  void Serve();
  // Runs what was posted; false: nothing was.
  bool RunPosted();
  // Waits for what comes next, if `wait`. False: the queue has ended.
  bool CompleteNext(bool wait);

  std::unique_ptr<grpc::ServerCompletionQueue> queue_;  // constant after the first AddTo
  std::vector<std::unique_ptr<grpc::ServerCompletionQueue>> unused_queues_;  // the owner's thread
  std::thread thread_;
  bool ended_ = false;  // the owner's thread
  WakeTag wake_tag_;

  // The completion-queue thread.
  bool stopping_ = false;
  bool expecting_ = false;
  internal::AdaptiveSpin spin_;
  std::vector<Closure> running_;

  std::atomic<bool> has_posted_{false};  // as posted_, for the thread that spins

  absl::Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool polling_ ABSL_GUARDED_BY(mutex_) = false;  // nothing but the queue wakes the thread
  bool waking_ ABSL_GUARDED_BY(mutex_) = false;   // the alarm is set
  std::vector<Closure> posted_ ABSL_GUARDED_BY(mutex_);
  grpc::Alarm alarm_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_COMPLETION_THREAD_H_

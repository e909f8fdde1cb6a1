#ifndef RUNLOOP_DAEMON_SESSION_SERVER_H_
#define RUNLOOP_DAEMON_SESSION_SERVER_H_

#include <grpcpp/alarm.h>
#include <grpcpp/completion_queue.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/daemon/callers.h"
#include "runloop/daemon/log_limiter.h"
#include "runloop/daemon/session_outbox.h"
#include "runloop/runtime/core.h"
#include "runloop/v1/dispatcher.grpc.pb.h"

namespace runloop::daemon {

class DispatcherService;
class SessionStream;

// What comes out of the completion queue.
class CompletionTag {
 public:
  virtual void Complete(bool ok) = 0;

 protected:
  ~CompletionTag() = default;
};

struct SessionServerOptions {
  std::shared_ptr<internal::RuntimeCore> core;
  Callers* callers = nullptr;  // outlives the server
  int64_t max_message_bytes = 0;
  int64_t max_unfinished = 0;
  std::function<void()> on_idle;  // HostOptions
  LogSink log;
};

// Serves the session streams (Dispatcher.Session) on one thread that waits on a completion queue.
// That thread reads, checks and admits requests, and writes outcomes; the runtime thread only wakes
// it.
//
// Threads: Start, Shutdown and the destructor on the owner's; BeginDrain and ConnectionEnded from
// any. The streams live on the completion-queue thread.
class SessionServer {
 public:
  explicit SessionServer(SessionServerOptions options);
  ~SessionServer();
  SessionServer(const SessionServer&) = delete;
  SessionServer& operator=(const SessionServer&) = delete;

  // Serves from now on. `service` is registered with a server that runs and made `queue`.
  void Start(DispatcherService* service, std::unique_ptr<grpc::ServerCompletionQueue> queue);

  // Tells every worker, now and when it connects, and ends the streams whose work is done.
  void BeginDrain(absl::Duration timeout);

  // A connection has ended, perhaps one that plain calls came by, which leave memory behind, too.
  void ConnectionEnded();

  // Ends the thread. The gRPC server is shut down by then, so that every stream has been cancelled.
  // Idempotent.
  void Shutdown();

  // ---- for the streams; the completion-queue thread ----

  const SessionServerOptions& options() const { return options_; }
  internal::RuntimeCore& core() const { return *options_.core; }
  const std::shared_ptr<SessionWaker>& waker() const { return waker_; }
  grpc::ServerCompletionQueue* queue() const { return queue_.get(); }
  DispatcherService& service() const { return *service_; }
  // An operation's id on every stream is its place here, counted from 1.
  const std::vector<const Operation*>& operations() const { return operations_; }
  LogLimiter& log() { return log_; }
  // How long a drain may still take; nothing if there is none.
  std::optional<absl::Duration> drain_left() const;

  // A stream has found its peer: wait for the next one.
  void Listen();
  // A stream has nothing outstanding any more.
  void Delete(SessionStream* stream);
  // A stream's session was opened, and has ended.
  void SessionOpened() { ++open_sessions_; }
  void SessionEnded();

 private:
  class WakeTag final : public CompletionTag {
   public:
    explicit WakeTag(SessionServer& server) : server_(server) {}
    void Complete(bool) override { server_.OnWake(); }

   private:
    SessionServer& server_;
  };

  void Serve();
  void OnWake();
  // Sets the alarm for on_idle if no session is open.
  void AwaitIdle();

  // Constant after construction.
  const SessionServerOptions options_;
  const std::vector<const Operation*> operations_;

  // Constant after Start.
  DispatcherService* service_ = nullptr;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::shared_ptr<SessionWaker> waker_;
  std::thread thread_;

  LogLimiter log_;
  WakeTag wake_tag_{*this};
  std::atomic<bool> connection_ended_{false};

  // The completion-queue thread.
  absl::flat_hash_map<SessionStream*, std::unique_ptr<SessionStream>> streams_;
  bool drain_seen_ = false;
  int open_sessions_ = 0;
  std::unique_ptr<grpc::Alarm> idle_alarm_;

  mutable absl::Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Time> drain_deadline_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_SERVER_H_

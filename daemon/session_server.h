#ifndef RUNLOOP_DAEMON_SESSION_SERVER_H_
#define RUNLOOP_DAEMON_SESSION_SERVER_H_

#include <grpcpp/alarm.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/daemon/call.h"
#include "runloop/daemon/callers.h"
#include "runloop/daemon/grace_watch.h"
#include "runloop/daemon/log_limiter.h"
#include "runloop/daemon/session_protocol.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop::daemon {

class RingServer;
class SessionStream;

// A session whose stream has broken.
struct Resumed {
  std::unique_ptr<SessionProtocol> protocol;  // null: there is none
  std::shared_ptr<const UniqueFd> process;    // a pidfd of its worker
};

struct SessionServerOptions {
  std::shared_ptr<internal::RuntimeCore> core;
  std::shared_ptr<CompletionThread> completion;
  Callers* callers = nullptr;  // outlives the server
  int64_t max_message_bytes = 0;
  int64_t max_unfinished = 0;
  // How long a session goes on without a connection; 0: it does not.
  absl::Duration resume_grace;
  std::shared_ptr<RingServer> rings;  // null: there are none
  std::string why_no_rings;           // then
  std::function<void()> on_idle;      // HostOptions
  LogSink log;
};

// The session streams (Dispatcher.Session) of one server, and what concerns them all; and the
// sessions whose stream has broken, for as long as their workers may resume them.
//
// Threads: the completion-queue thread, where the streams live; BeginDrain and ConnectionEnded from
// any. It outlives the streams, and what was posted to that thread.
class SessionServer {
 public:
  explicit SessionServer(SessionServerOptions options);
  ~SessionServer();
  SessionServer(const SessionServer&) = delete;
  SessionServer& operator=(const SessionServer&) = delete;

  std::unique_ptr<CallHandler> NewStream(Call& call);

  // Tells every worker, now and when it connects, and ends the streams whose work is done.
  void BeginDrain(absl::Duration timeout);

  // A connection has ended, perhaps one that plain calls came by, which leave memory behind, too.
  void ConnectionEnded();

  // ---- for the streams ----

  const SessionServerOptions& options() const { return options_; }
  internal::RuntimeCore& core() const { return *options_.core; }
  const SessionTerms& terms() const { return terms_; }
  LogLimiter& log() { return log_; }
  // Of the streams.
  SessionTools& tools() { return tools_; }
  // How long a drain may still take; nothing if there is none.
  std::optional<absl::Duration> drain_left() const;

  void Add(SessionStream* stream) { streams_.insert(stream); }
  void Remove(SessionStream* stream) { streams_.erase(stream); }
  // A stream's session was opened, and has ended.
  void SessionOpened() { ++open_sessions_; }
  void SessionEnded();

  // False: as many of its user or role are detached as may be.
  bool MayDetach(const Session& session) const;
  // A session that nothing carries from now on, until its worker resumes it or dies, or the grace
  // is over.
  void Detach(std::unique_ptr<SessionProtocol> protocol, std::shared_ptr<const UniqueFd> process);
  // To resume it, whether its stream is known to be broken or not.
  Resumed TakeOver(const Session& session);
  // Ends a session that no stream has.
  void EndSession(SessionProtocol& protocol);

 private:
  class Waker;

  // Of one user or role. Without a connection they are bounded by nothing else: each keeps a
  // descriptor, and outcomes.
  static constexpr size_t kMostDetached = 256;
  static constexpr size_t kMostDetachedBytes = size_t{256} << 20;

  // A detached session has outcomes.
  void Gather(const std::string& session_id);
  // If those of its user or role hold too much, ends the one that holds most.
  void EndLargest(const std::string& holder);
  void EndDetached(const std::string& session_id, const absl::Status& why);
  // If no session is open: gives memory back, and sets the alarm for on_idle.
  void AwaitIdle();

  // Constant after construction.
  const SessionServerOptions options_;
  const SessionTerms terms_;

  std::atomic<bool> connection_ended_{false};  // and it is posted

  // The completion-queue thread.
  LogLimiter log_;
  SessionTools tools_;
  absl::flat_hash_set<SessionStream*> streams_;
  absl::flat_hash_map<std::string, Resumed> detached_;  // by id
  int open_sessions_ = 0;
  std::unique_ptr<grpc::Alarm> idle_alarm_;

  mutable absl::Mutex mutex_;
  std::optional<absl::Time> drain_deadline_ ABSL_GUARDED_BY(mutex_);

  GraceWatch grace_watch_;  // the first to be destroyed
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_SERVER_H_

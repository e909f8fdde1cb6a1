#ifndef RUNLOOP_DAEMON_RING_SERVER_H_
#define RUNLOOP_DAEMON_RING_SERVER_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/daemon/completion_thread.h"
#include "runloop/daemon/session_protocol.h"
#include "runloop/daemon/session_ring.h"
#include "runloop/runtime/intake_source.h"
#include "runloop/runtime/mutex.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop::daemon {

struct RingServerOptions {
  SessionTerms terms;
  // Of each of a session's two rings; IsRingSize.
  size_t ring_bytes = 0;
  // What takes in long messages, and writes long replies.
  std::shared_ptr<CompletionThread> completion;
  // What long messages that were not taken in yet may hold, of all sessions by the main sockets
  // together, and of all with a role; if it is passed, the session that holds most is ended.
  size_t max_arriving_bytes = 0;
  size_t max_role_arriving_bytes = 0;
};

// The sessions whose messages come by rings (docs/rings.md). The runtime takes them in itself
// (IntakeSource): no other thread stands between a worker and the runtime thread.
//
// Threads: any. One lock guards it all; it is held while messages are copied, read, admitted and
// written, some of each session at a time, and while nothing is run. The runtime outlives it, and
// it the tasks of its sessions.
//
// Which sessions are looked at: those where something has happened since the runtime thread last
// slept. The others have announced that they sleep, and the worker rings.
class RingServer final : public internal::IntakeSource,
                         public std::enable_shared_from_this<RingServer> {
 public:
  // RESOURCE_EXHAUSTED: the kernel gives no descriptors.
  static absl::StatusOr<std::shared_ptr<RingServer>> Create(RingServerOptions options);
  ~RingServer() override;

  // What a worker is given.
  struct Attached {
    std::shared_ptr<SessionRing> ring;
    size_t request_bytes = 0;
    size_t response_bytes = 0;
    UniqueFd memory;
    int bell = -1;  // the ring's
  };
  // Makes rings for the session, which goes on without until Begin. RESOURCE_EXHAUSTED: the
  // session, its user or role, or the process has no room for them; ABORTED (SESSION_ENDED).
  absl::StatusOr<Attached> Attach(const std::shared_ptr<Session>& session,
                                  std::shared_ptr<RingOwner> owner,
                                  std::shared_ptr<const UniqueFd> channel);
  const SessionTerms& terms() const { return options_.terms; }
  // They are served from now on, and the worker is told so.
  void Start(const std::shared_ptr<SessionRing>& ring, std::unique_ptr<SessionProtocol> protocol);
  // Ends it, also one that has not been started, and gives back what Start was given. Idempotent:
  // null, then.
  std::unique_ptr<SessionProtocol> Close(SessionRing& ring);
  // See SessionRing.
  void EndRequests(SessionRing& ring);
  void BeginDrain(SessionRing& ring, absl::Duration left);
  // The worker has waited for long: looks at once, on this thread.
  void Knock(SessionRing& ring);
  // Its side channel has gone, and it ends with that.
  void ChannelClosed(const std::shared_ptr<SessionRing>& ring);
  // It has something to do, and is asleep. Does not take the lock.
  void Poke(std::weak_ptr<SessionRing> ring);
  // Serves what is left once the runtime has stopped, until no session is left or `deadline`,
  // Clock::Monotonic, has come.
  void Finish(absl::Time deadline);

  // ---- IntakeSource ----
  int wake_fd() const override { return bells_.get(); }
  void Collect() override;
  bool HasWork() override;
  void Serve(absl::Time now) override;
  bool AnnounceSleep() override;

 private:
  explicit RingServer(RingServerOptions options, UniqueFd bells);
  Clock& clock() const { return options_.terms.core->clock(); }

  void CollectLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakePoked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Activate(SessionRing& ring) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ServeOne(SessionRing& ring, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Has the first of long_rings_ dealt with, later.
  void PostLong() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The completion-queue thread.
  void HandleLong();
  void EndLargest(bool with_role) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Not served any more, and its owner is told.
  void End(SessionRing& ring, absl::Status why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t& ArrivingOf(const SessionRing& ring) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountLong(SessionRing& ring) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(SessionRing& ring) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const RingServerOptions options_;
  const UniqueFd bells_;     // an epoll descriptor with those of all rings
  SessionTools long_tools_;  // the completion-queue thread's

  internal::Mutex mutex_;
  SessionTools tools_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<SessionRing*, std::shared_ptr<SessionRing>> rings_ ABSL_GUARDED_BY(mutex_);
  std::vector<SessionRing*> active_ ABSL_GUARDED_BY(mutex_);
  // What takes long, one at a time, so that RPCs have their turn between two.
  std::deque<std::shared_ptr<SessionRing>> long_rings_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;  // in active_: whose turn it is
  uint32_t serves_ ABSL_GUARDED_BY(mutex_) = 0;
  // By whether the session has a role.
  size_t arriving_bytes_[2] ABSL_GUARDED_BY(mutex_) = {0, 0};

  std::atomic<bool> has_poked_{false};
  internal::Mutex poked_mutex_ ABSL_ACQUIRED_AFTER(mutex_);
  std::vector<std::weak_ptr<SessionRing>> poked_ ABSL_GUARDED_BY(poked_mutex_);
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_RING_SERVER_H_

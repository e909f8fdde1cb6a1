#ifndef RUNLOOP_RUNTIME_SESSION_H_
#define RUNLOOP_RUNTIME_SESSION_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace runloop {

namespace internal {
class RuntimeCore;
}

// Who a session belongs to: what the kernel said of the peer when it connected, and the role of the
// socket that it came in by. Only this decides what a session may do.
struct PeerIdentity {
  int32_t pid = 0;  // for people and liveness; never for authorization, since pids are reused
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::string role;  // empty: the main socket, or in process

  bool operator==(const PeerIdentity&) const = default;
};

// One worker's standing with the runtime: its order and the things that end with it. In process
// there is one for each RuntimeContext that Connect returned and one for the host itself.
//
// Any thread may use a session. It is owned by its transport together with the invocations that
// came by it, and ends once: when the worker closes it, when its connection breaks, or when the
// runtime stops.
class Session : public std::enable_shared_from_this<Session> {
 public:
  struct Info {
    std::string id;           // unique in the runtime
    std::string client_name;  // the worker's own words: for people
    PeerIdentity peer;
    std::string transport;  // `stream`, `call`, `local`: what status shows
    absl::Time start_time;  // of day
  };

  struct Counts {
    uint64_t queued = 0;
    uint64_t running = 0;  // deferred ones included
    uint64_t finished = 0;
  };

  const Info& info() const { return info_; }

  // Runs `closure` on the runtime thread when the session ends, closures added later first; if it
  // has ended, soon; if the runtime has stopped, here and now. Each runs exactly once, also when
  // the worker crashed. This is where an operation puts the clean-up of what it made for the
  // session.
  void AtEnd(absl::AnyInvocable<void() &&> closure);

  // From now on nothing of the session starts: what is queued ends as abandoned when its turn
  // comes. Then, on the runtime thread, the closures of AtEnd run, and deferred invocations that
  // those did not finish fail with ABORTED (SESSION_ENDED). Idempotent.
  void End();
  bool ended() const { return ended_.load(std::memory_order_acquire); }

  Counts counts() const;

 private:
  friend class internal::RuntimeCore;

  Session(std::weak_ptr<internal::RuntimeCore> core, Info info);
  // Runs what AtEnd gathered. The runtime thread.
  void RunClosures();

  const std::weak_ptr<internal::RuntimeCore> core_;
  const Info info_;

  std::atomic<bool> ended_{false};
  std::atomic<uint64_t> queued_{0}, running_{0}, finished_{0};

  absl::Mutex mutex_;
  std::vector<absl::AnyInvocable<void() &&>> at_end_ ABSL_GUARDED_BY(mutex_);
  bool closures_run_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_SESSION_H_

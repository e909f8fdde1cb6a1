#ifndef RUNLOOP_RUNTIME_SESSION_H_
#define RUNLOOP_RUNTIME_SESSION_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <typeindex>
#include <typeinfo>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/bounds.h"
#include "runloop/runtime/call_site.h"
#include "runloop/runtime/handle.h"
#include "runloop/runtime/handle_table.h"
#include "runloop/runtime/priority.h"
#include "runloop/runtime/split_count.h"
#include "runloop/runtime/task_queue.h"

namespace runloop {

namespace internal {
class Lifecycle;
class OperationTask;
class RuntimeCore;
}  // namespace internal

// Who a session belongs to: what the kernel said of the peer when it connected, and the role of the
// socket that it came in by. Only this decides what a session may do.
struct PeerIdentity {
  int32_t pid = 0;  // for people and liveness; never for authorization, since pids are reused
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::string role;  // empty: the main socket, or in process

  bool operator==(const PeerIdentity&) const = default;
};

// Whose share of the room a peer's sessions take: `uid 1000`, or `role camera` for one with a role.
std::string HolderOf(const PeerIdentity& peer);

// One worker's standing with the runtime: its order, its share of the room, and the objects that it
// holds by handle. In process there is one for each RuntimeContext that Connect returned.
//
// Any thread may use a session, unless said otherwise. It is owned by its transport together with
// the invocations that came by it, and ends once: when the worker closes it, when its process dies,
// when its connection breaks and is not resumed, or when the runtime drains or stops.
class Session : public std::enable_shared_from_this<Session> {
 public:
  struct Info {
    std::string id;           // unique in the runtime
    std::string client_name;  // the worker's own words: for people
    PeerIdentity peer;
    std::string transport;  // `stream`, `call`, `local`: what status shows, unless it has changed
    absl::Time start_time;  // of day
    // In process: it shares a lane with closures of its priority, and is bounded by the total
    // alone.
    bool in_process = false;
    Priority priority = Priority::kDefault;
  };

  struct Counts {
    uint64_t queued = 0;   // delayed ones included
    uint64_t running = 0;  // deferred ones included
    uint64_t finished = 0;
    uint64_t bytes = 0;    // of unfinished requests; 0 in process
    uint64_t handles = 0;  // those that are being closed included
  };

  const Info& info() const { return info_; }

  // How its messages travel, and why so, in words; for status.
  struct Transport {
    std::string name;
    std::string why;
  };
  Transport transport() const;
  void SetTransport(Transport transport);

  // For its transport, which holds so much more of outcomes that its worker has not taken, or may
  // ask for once more. Any thread, as the next.
  void HoldOutcomes(int64_t bytes) const;
  // False: all sessions of its user or role hold more than `bound`, and this one, with `own`, more
  // than an even share of that.
  bool MayHoldOutcomes(size_t own, size_t bound) const;

  // What its peer has told of its source; transports keep it here, for as long as anything of the
  // session is there to be named.
  internal::CallSiteTable& call_sites() { return call_sites_; }

  // The object that `handle` names, for the time until the handler returns: another operation may
  // release it. The runtime thread. NOT_FOUND (UNKNOWN_HANDLE): it is not of this session, was
  // released, or is of another type; all look the same to a peer that guesses.
  template <typename T>
  absl::StatusOr<T*> Find(Handle handle) {
    absl::StatusOr<void*> object = handles_.Find(handle, typeid(T));
    if (!object.ok()) return object.status();
    return static_cast<T*>(*object);
  }

  // Closes the object that `handle` names (handle.h); the handle is not valid any more when this
  // returns. `done` runs on the runtime thread once the object is destroyed: OK, or
  // DEADLINE_EXCEEDED (STILL_RUNNING) if closing took too long. The runtime thread. NOT_FOUND
  // (UNKNOWN_HANDLE): `done` is destroyed uncalled.
  absl::Status Release(Handle handle, absl::AnyInvocable<void(absl::Status) &&> done = nullptr);

  // From now on nothing of the session starts: what is queued ends as abandoned and what is
  // deferred fails with ABORTED (SESSION_ENDED), here and now, even while the runtime thread is
  // stuck. Then, on the runtime thread, its objects are closed, last made first. Idempotent.
  void End();
  bool ended() const { return ended_.load(std::memory_order_acquire); }

  Counts counts() const;

  // Publishes `message` on a topic to the subscriptions of this session alone. Never waits, and
  // runs nothing of a subscriber's; from any thread. NOT_FOUND (UNKNOWN_TOPIC), INVALID_ARGUMENT:
  // it is of another type; ABORTED (SESSION_ENDED), UNAVAILABLE (RUNTIME_STOPPED).
  template <typename Message>
  absl::Status Publish(std::string_view topic, Message message) const {
    return PublishMessage(topic, std::make_shared<const Message>(std::move(message)));
  }

  // Of its subscriptions; the hub and the queues count.
  struct Notifications {
    std::atomic<uint64_t> subscriptions{0}, delivered{0}, dropped{0};
  };
  Notifications& notifications() const { return notifications_; }

 private:
  friend class Closing;
  friend class internal::HandleTable;
  friend class internal::Lifecycle;
  friend class internal::OperationTask;
  friend class internal::RuntimeCore;

  Session(std::weak_ptr<internal::RuntimeCore> core, Info info,
          std::shared_ptr<internal::Account> user, const Bound& bound);

  absl::Status PublishMessage(std::string_view topic,
                              std::shared_ptr<const google::protobuf::Message> message) const;

  // What is queued with this key, or null. Any thread, as the next two.
  std::shared_ptr<internal::OperationTask> FindKeyed(const std::string& key);
  // `task` is now what is queued with its key; returns what was.
  std::shared_ptr<internal::OperationTask> ExchangeKeyed(
      const std::string& key, const std::shared_ptr<internal::OperationTask>& task);
  // `task` has left the queue.
  void ForgetKeyed(const std::string& key, const internal::OperationTask& task);

  const std::weak_ptr<internal::RuntimeCore> core_;
  const Info info_;
  // Null in process.
  const std::shared_ptr<internal::Account> user_;
  const std::unique_ptr<internal::Account> account_;
  internal::Lane lane_;  // the queue's

  // What dispatches write and read, apart from what the runtime thread writes all the time.
  alignas(64) std::atomic<bool> ended_{false};
  // Of invocations. Lifecycle counts, also for sessions that it may not change.
  mutable SplitCount admitted_;
  mutable std::atomic<uint64_t> unstarted_{0};  // those that ended unstarted
  alignas(64) SplitCount started_, finished_;

  alignas(64) internal::HandleTable handles_;
  internal::CallSiteTable call_sites_;
  mutable Notifications notifications_;

  mutable absl::Mutex mutex_;
  Transport transport_ ABSL_GUARDED_BY(mutex_);
  // What is queued and has a coalesce_key.
  absl::flat_hash_map<std::string, std::weak_ptr<internal::OperationTask>> keyed_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_SESSION_H_

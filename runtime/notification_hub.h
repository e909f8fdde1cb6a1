#ifndef RUNLOOP_RUNTIME_NOTIFICATION_HUB_H_
#define RUNLOOP_RUNTIME_NOTIFICATION_HUB_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/bounds.h"
#include "runloop/runtime/callback_thread.h"
#include "runloop/runtime/notification_queue.h"
#include "runloop/runtime/topic.h"

namespace runloop {

class Session;

namespace internal {

// Brings what is published on the topics of one runtime to those that have subscribed.
//
// Threads: any. Publish waits for nobody and runs nothing of a subscriber's: it puts one reference
// to the message into the queue of each, and wakes those that sleep. There is one order of
// publications, over all topics, and each queue has it.
//
// What is distrusted: a peer that subscribes. Its subscriptions are bounded, by session and by uid
// or role.
class NotificationHub {
 public:
  // Of one session of a peer's, and of all of its uid or role.
  static constexpr int64_t kMaxSessionSubscriptions = 256;
  static constexpr int64_t kMaxUserSubscriptions = 10'000;
  static constexpr int64_t kMaxRoleSubscriptions = 1'024;

  NotificationHub(std::vector<std::shared_ptr<const Topic>> topics, NotificationBounds bounds);

  // By name; a topic's number is its place here, counted from 1.
  const std::vector<std::shared_ptr<const Topic>>& topics() const { return topics_; }
  // Of one subscriber.
  const NotificationBounds& bounds() const { return bounds_; }
  // NOT_FOUND (UNKNOWN_TOPIC).
  absl::StatusOr<std::shared_ptr<const Topic>> Find(std::string_view name) const;

  // To all, or to the subscriptions of one session. NOT_FOUND (UNKNOWN_TOPIC); INVALID_ARGUMENT:
  // `message` is not of the topic's type; ABORTED (SESSION_ENDED); UNAVAILABLE (RUNTIME_STOPPED).
  absl::Status Publish(std::string_view topic,
                       std::shared_ptr<const google::protobuf::Message> message,
                       const Session* only = nullptr);

  // What is published on `topic` from now on goes to `queue`, which has a session, as
  // `subscription`, which the queue does not have yet. RESOURCE_EXHAUSTED (SUBSCRIPTIONS_FULL),
  // ABORTED (SESSION_ENDED), UNAVAILABLE (RUNTIME_STOPPED).
  absl::Status Subscribe(const std::shared_ptr<NotificationQueue>& queue, uint64_t subscription,
                         const std::shared_ptr<const Topic>& topic);
  // From now on nothing more of it, also of what waits. Nothing happens if there is none.
  void Unsubscribe(NotificationQueue& queue, uint64_t subscription, const Topic& topic);
  // All subscriptions of `queue`.
  void Remove(NotificationQueue& queue);

  // Ends all queues of a session, or of all. What waits can still be taken, unless it `drops` that.
  void EndSession(const Session& session, const absl::Status& why, bool drops);
  void Stop(const absl::Status& why);

  // Where subscribers of this process are called, unless they have an executor.
  CallbackThread& callbacks() { return callbacks_; }

 private:
  // Those of one session stand together, as do those of one queue.
  using Key = std::tuple<const Session*, const NotificationQueue*, uint64_t>;
  struct Subscriber {
    std::shared_ptr<NotificationQueue> queue;
    uint64_t sequence = 0;  // of the last that was published
  };
  using Subscribers = std::map<Key, Subscriber>;
  using Queues = std::vector<std::shared_ptr<NotificationQueue>>;

  Subscribers::iterator Erase(const Topic& topic, Subscribers& subscribers,
                              Subscribers::iterator place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckRoom(const Session& session) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::vector<std::shared_ptr<const Topic>> topics_;
  const absl::flat_hash_map<absl::string_view, size_t> places_;  // in topics_, by their names
  const NotificationBounds bounds_;

  mutable absl::Mutex mutex_;
  std::vector<Subscribers> subscribers_ ABSL_GUARDED_BY(mutex_);  // in the places of their topics
  absl::flat_hash_map<std::string, int64_t> held_ ABSL_GUARDED_BY(mutex_);  // by HolderOf
  absl::Status stopped_ ABSL_GUARDED_BY(mutex_);                            // OK until Stop

  CallbackThread callbacks_;  // the first to end
};

}  // namespace internal
}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_NOTIFICATION_HUB_H_

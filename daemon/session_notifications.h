#ifndef RUNLOOP_DAEMON_SESSION_NOTIFICATIONS_H_
#define RUNLOOP_DAEMON_SESSION_NOTIFICATIONS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "runloop/runtime/core.h"
#include "runloop/v1/session.pb.h"

namespace runloop::daemon {

// What waits for one subscriber at most, so that one notification always fits a message of gRPC's
// beside outcomes.
NotificationBounds QueueBounds(const internal::NotificationHub& hub, int64_t max_message_bytes);

// The subscriptions of one session by its stream or ring, and what is to be told of them.
//
// Threads: as SessionProtocol, one at a time. The core outlives it.
//
// What is distrusted: ids and names, and how many there are (NotificationHub). What the worker does
// not read waits in one bounded queue.
class SessionNotifications {
 public:
  // `wake` is called by whoever publishes after Sleep: it must not wait.
  SessionNotifications(internal::RuntimeCore& core, std::shared_ptr<Session> session,
                       int64_t max_message_bytes, std::function<void()> wake);

  // Takes `subscribes` and `unsubscribes` in. An error is a violation of the protocol.
  absl::Status Handle(const v1::SessionRequest& request);
  // Adds some of what there is to tell; false: there is nothing.
  bool Fill(v1::SessionResponse& response);
  // The next publication wakes; false: there is something to tell.
  bool Sleep();
  bool has_any() const;
  // Of the results that no response has held.
  size_t unsent_bytes() const { return result_bytes_; }
  // Something was subscribed to, or was to be.
  bool used() const { return last_id_ > 0; }
  // Another connection carries the session on: the worker subscribes anew, with other ids.
  void Restart();
  // From now on what is published is not for this worker, whatever it subscribes to. What waits can
  // be told.
  void Finish();

 private:
  absl::Status Subscribe(const v1::Subscribe& subscribe);
  absl::StatusOr<std::shared_ptr<const Topic>> FindTopic(const v1::Subscribe& subscribe) const;

  internal::RuntimeCore& core_;
  const std::shared_ptr<Session> session_;
  const int64_t max_message_bytes_;
  const std::function<void()> wake_;

  std::shared_ptr<internal::NotificationQueue> queue_;  // null before the first subscription
  absl::flat_hash_map<uint64_t, std::shared_ptr<const Topic>> topics_;  // of subscriptions, by id
  bool finished_ = false;
  uint64_t last_id_ = 0;
  uint64_t passed_over_ = 0;                 // ids up to it come again, of before Restart
  std::deque<v1::SubscribeResult> results_;  // to be told
  size_t result_bytes_ = 0;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_NOTIFICATIONS_H_

#ifndef RUNLOOP_CLIENT_REMOTE_SUBSCRIPTIONS_H_
#define RUNLOOP_CLIENT_REMOTE_SUBSCRIPTIONS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "runloop/client/open_session.h"
#include "runloop/runtime/subscription.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {

class SessionClient;

// A subscription to what a daemon publishes. Thread-safe; outlives the client.
class RemoteSubscription final : public SubscriptionState {
 public:
  static std::shared_ptr<RemoteSubscription> New(Call call, std::weak_ptr<SessionClient> client);

  // The client's, under its lock.
  uint64_t place = 0;  // among all, in the order in which they were asked for
  // Its number in the session that is open; 0: it has none.
  uint64_t id = 0;
  bool latest = false;
  // A session was lost, and nothing has come since.
  bool gap = false;

 private:
  RemoteSubscription(Call call, std::weak_ptr<SessionClient> client)
      : SubscriptionState(std::move(call)), client_(std::move(client)) {}

  void PostCallbacks(absl::AnyInvocable<void() &&> run) override;
  void Unsubscribe() override;

  const std::weak_ptr<SessionClient> client_;
};

// The subscriptions of one client, from session to session. Not thread-safe.
//
// Trust: a daemon that tells of what was never subscribed to breaks the protocol. What it publishes
// is checked by whoever takes it.
class RemoteSubscriptions {
 public:
  // Subscribes in `session`, or, if that is null, in the next one. NOT_FOUND (UNKNOWN_TOPIC),
  // INVALID_ARGUMENT, RESOURCE_EXHAUSTED (SUBSCRIPTIONS_FULL): the session does not allow it.
  absl::Status Add(const std::shared_ptr<RemoteSubscription>& subscription, OpenSession* session);
  void Remove(const std::shared_ptr<RemoteSubscription>& subscription, OpenSession* session);

  // A session stands, or goes on by another connection: subscribes in it, in the order of before,
  // so that the first ones stand if it allows fewer.
  void BeginSession(const v1::Welcome& welcome, OpenSession& session);
  void EndSession();

  // Hands out what came. `to_wake` are then to be woken, without the client's lock. An error: the
  // daemon broke the protocol.
  using Queues = std::vector<std::shared_ptr<NotificationQueue>>;
  absl::Status Receive(v1::SessionResponse& message, Queues& to_wake);

  // All of them, which are none any more.
  std::vector<std::shared_ptr<RemoteSubscription>> TakeAll();

 private:
  absl::Status Subscribe(RemoteSubscription& subscription, OpenSession& session, bool must);

  std::map<uint64_t, std::shared_ptr<RemoteSubscription>> all_;  // by their places
  uint64_t last_place_ = 0;

  // Of the session that is open.
  absl::flat_hash_map<std::string, v1::TopicId> topics_;
  uint64_t max_subscriptions_ = 0;
  absl::flat_hash_map<uint64_t, std::shared_ptr<RemoteSubscription>> by_id_;
  uint64_t last_id_ = 0;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_REMOTE_SUBSCRIPTIONS_H_

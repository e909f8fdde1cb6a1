#ifndef RUNLOOP_TESTS_SEQUENCE_WORKER_SUBSCRIPTIONS_H_
#define RUNLOOP_TESTS_SEQUENCE_WORKER_SUBSCRIPTIONS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runloop/client/open_session.h"
#include "runloop/client/remote_subscriptions.h"
#include "runloop/runtime/notification_hub.h"
#include "runloop/runtime/subscription.h"
#include "runloop/v1/session.pb.h"

namespace runloop::sequence {

// The subscriptions of one worker, kept by the client's own code, which stands here between no
// connections: whoever has it carries what is to be said, and what comes.
class WorkerSubscriptions {
 public:
  WorkerSubscriptions(const internal::NotificationHub& hub, const std::string& session_id);

  // The next request asks for it, or tells of its end.
  absl::StatusOr<std::shared_ptr<internal::SubscriptionState>> Add(
      internal::SubscriptionState::Call call);
  void Remove(const internal::SubscriptionState& subscription);
  // A serialized v1.SessionRequest. Empty: there is nothing to be said.
  std::string TakeRequest();

  // The connection is lost; then another one stands.
  void LoseConnection();
  void Resume();

  // Hands out what has come. An error: it is nothing that the protocol has come then.
  absl::Status Receive(v1::SessionResponse& response);

  // The worker closes its session.
  void End();

 private:
  absl::Status Check(const v1::SessionResponse& response);

  v1::Welcome welcome_;
  std::optional<internal::OpenSession> session_;
  internal::RemoteSubscriptions subscriptions_;
  std::vector<std::shared_ptr<internal::RemoteSubscription>> all_;
  std::set<uint64_t> answered_;  // ids, by a result
  uint64_t last_of_every_ = 0;   // item that has come, of the topic that drops none for a newer one
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_WORKER_SUBSCRIPTIONS_H_

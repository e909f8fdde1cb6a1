#include "runloop/tests/sequence/worker_subscriptions.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/error.h"
#include "runloop/test/v1/test_topics.pb.h"

namespace runloop::sequence {

WorkerSubscriptions::WorkerSubscriptions(const internal::NotificationHub& hub,
                                         const std::string& session_id) {
  welcome_.set_session_id(session_id);
  welcome_.set_resume_token("so that it may be resumed");
  for (const std::shared_ptr<const Topic>& topic : hub.topics()) {
    v1::TopicId& named = *welcome_.add_topics();
    named.set_id(static_cast<uint32_t>(welcome_.topics_size()));
    named.set_name(topic->name());
    named.set_message_type(topic->type().full_name());
    named.set_latest(topic->latest());
  }
  session_.emplace(welcome_);
  subscriptions_.BeginSession(welcome_, *session_);
  welcome_.set_resumed(true);  // each one from now on
}

absl::StatusOr<std::shared_ptr<internal::SubscriptionState>> WorkerSubscriptions::Add(
    internal::SubscriptionState::Call call) {
  std::shared_ptr<internal::RemoteSubscription> added =
      internal::RemoteSubscription::New(std::move(call), {});
  if (absl::Status status = subscriptions_.Add(added, &*session_); !status.ok()) return status;
  all_.push_back(added);
  return added;
}

void WorkerSubscriptions::Remove(const internal::SubscriptionState& subscription) {
  const auto found = std::find_if(all_.begin(), all_.end(),
                                  [&](const auto& known) { return known.get() == &subscription; });
  if (found == all_.end()) return;
  subscriptions_.Remove(*found, &*session_);
  all_.erase(found);
}

std::string WorkerSubscriptions::TakeRequest() {
  const std::optional<internal::OpenSession::Outgoing> outgoing = session_->NextOutgoing();
  if (!outgoing.has_value()) return "";
  std::vector<std::string_view> pieces;
  outgoing->message->AppendPieces(pieces);
  std::string request;
  for (const std::string_view piece : pieces) request += piece;
  session_->Sent(/*copied=*/true);
  session_->Written();
  return request;
}

void WorkerSubscriptions::LoseConnection() { subscriptions_.EndSession(); }

void WorkerSubscriptions::Resume() {
  (void)session_->Resume(welcome_);
  subscriptions_.BeginSession(welcome_, *session_);
}

absl::Status WorkerSubscriptions::Check(const v1::SessionResponse& response) {
  for (const v1::SubscribeResult& result : response.subscribe_results()) {
    if (answered_.insert(result.subscription_id()).second) continue;
    return absl::InternalError("a subscription was answered twice");
  }
  for (const v1::Notification& notification : response.notifications()) {
    const uint64_t id = notification.subscription_id();
    const auto found =
        std::find_if(all_.begin(), all_.end(), [&](const auto& known) { return known->id == id; });
    // All that was on its way had come before any of them ended.
    if (found == all_.end()) {
      return absl::InternalError("something has come for a subscription that has ended");
    }
    if (!answered_.contains(id)) {
      return absl::InternalError("a notification has come before its subscription's result");
    }
    if ((*found)->latest) continue;
    test::v1::Item item;
    if (!item.ParseFromString(notification.payload())) return absl::InternalError("no item");
    if (item.index() < last_of_every_) {
      return absl::InternalError(absl::StrCat("item ", item.index(), " has come after item ",
                                              last_of_every_, " of the same topic"));
    }
    last_of_every_ = item.index();
  }
  return absl::OkStatus();
}

absl::Status WorkerSubscriptions::Receive(v1::SessionResponse& response) {
  if (absl::Status status = Check(response); !status.ok()) return status;
  internal::RemoteSubscriptions::Queues to_wake;
  absl::Status status = subscriptions_.Receive(response, to_wake);
  for (const auto& queue : to_wake) queue->Wake();
  return status;
}

void WorkerSubscriptions::End() {
  // As SessionClient ends them.
  for (const auto& subscription : subscriptions_.TakeAll()) {
    (void)subscription->queue()->End(MakeError(
        absl::StatusCode::kUnavailable, v1::ERROR_REASON_NOT_CONNECTED, "the session was closed"));
  }
}

}  // namespace runloop::sequence

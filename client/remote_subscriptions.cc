#include "runloop/client/remote_subscriptions.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/client/session_client.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/local_subscription.h"

namespace runloop::internal {
namespace {

// Of a daemon's claim.
absl::Time TimeOf(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

}  // namespace

std::shared_ptr<RemoteSubscription> RemoteSubscription::New(Call call,
                                                            std::weak_ptr<SessionClient> client) {
  std::shared_ptr<RemoteSubscription> made(
      new RemoteSubscription(std::move(call), std::move(client)));
  made->Begin();
  return made;
}

void RemoteSubscription::PostCallbacks(absl::AnyInvocable<void() &&> run) {
  if (const std::shared_ptr<SessionClient> client = client_.lock()) client->Post(std::move(run));
}

void RemoteSubscription::Unsubscribe() {
  if (const std::shared_ptr<SessionClient> client = client_.lock()) {
    client->Unsubscribe(std::static_pointer_cast<RemoteSubscription>(shared_from_this()));
  }
}

absl::Status RemoteSubscriptions::Add(const std::shared_ptr<RemoteSubscription>& subscription,
                                      OpenSession* session) {
  if (session != nullptr) {
    if (absl::Status status = Subscribe(*subscription, *session, false); !status.ok())
      return status;
    by_id_[subscription->id] = subscription;
  }
  subscription->place = ++last_place_;
  all_[subscription->place] = subscription;
  return absl::OkStatus();
}

absl::Status RemoteSubscriptions::Subscribe(RemoteSubscription& subscription, OpenSession& session,
                                            bool must) {
  const auto topic = topics_.find(subscription.topic());
  if (topic == topics_.end()) {
    return MakeError(absl::StatusCode::kNotFound, v1::ERROR_REASON_UNKNOWN_TOPIC,
                     absl::StrCat("the daemon has no topic '", subscription.topic(),
                                  "', among the ", topics_.size(), " that it lists"));
  }
  if (topic->second.message_type() != subscription.type()->full_name()) {
    return WrongTopicType(subscription.topic(), topic->second.message_type(),
                          subscription.type()->full_name());
  }
  if (max_subscriptions_ != 0 && by_id_.size() >= max_subscriptions_) {
    return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_SUBSCRIPTIONS_FULL,
                     absl::StrCat("this session has ", by_id_.size(),
                                  " subscriptions, as many as the daemon allows: end some"),
                     {{"bound", "session"}, {"limit", absl::StrCat(max_subscriptions_)}});
  }
  v1::Subscribe subscribe;
  subscribe.set_subscription_id(last_id_ + 1);
  subscribe.set_topic_id(topic->second.id());
  if (absl::Status status = session.AddSubscribe(subscribe, must); !status.ok()) return status;
  subscription.id = ++last_id_;
  subscription.latest = topic->second.latest();
  return absl::OkStatus();
}

void RemoteSubscriptions::Remove(const std::shared_ptr<RemoteSubscription>& subscription,
                                 OpenSession* session) {
  if (all_.erase(subscription->place) == 0 || by_id_.erase(subscription->id) == 0) return;
  if (session != nullptr) session->AddUnsubscribe(subscription->id);
}

void RemoteSubscriptions::BeginSession(const v1::Welcome& welcome, OpenSession& session) {
  topics_.clear();
  for (const v1::TopicId& topic : welcome.topics()) topics_[topic.name()] = topic;
  max_subscriptions_ = welcome.limits().max_subscriptions();
  // In one that goes on, what was asked for before may still come.
  if (!welcome.resumed()) last_id_ = 0;
  for (const auto& [place, subscription] : all_) {
    absl::Status status = Subscribe(*subscription, session, true);
    if (status.ok()) by_id_[subscription->id] = subscription;
    subscription->SetStatus(std::move(status));
  }
}

void RemoteSubscriptions::EndSession() {
  by_id_.clear();
  for (const auto& [place, subscription] : all_) {
    subscription->id = 0;
    subscription->gap = true;
  }
}

absl::Status RemoteSubscriptions::Receive(v1::SessionResponse& message, Queues& to_wake) {
  absl::Status violation;
  const auto find = [&](uint64_t id) -> std::shared_ptr<RemoteSubscription> {
    if (id == 0 || id > last_id_) {
      violation = absl::InvalidArgumentError(
          absl::StrCat("something for subscription ", id, ", which was never asked for"));
    }
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : found->second;  // it may have ended since
  };
  for (const v1::SubscribeResult& result : message.subscribe_results()) {
    const auto subscription = find(result.subscription_id());
    absl::Status status = FromProto(result.status());
    if (subscription == nullptr || status.ok()) continue;
    by_id_.erase(std::exchange(subscription->id, 0));
    subscription->SetStatus(std::move(status));
  }
  for (v1::Notification& notification : *message.mutable_notifications()) {
    const auto subscription = find(notification.subscription_id());
    if (subscription == nullptr) continue;
    const std::shared_ptr<NotificationQueue>& queue = subscription->queue();
    auto publication = std::make_shared<const Publication>(
        std::move(*notification.mutable_payload()), TimeOf(notification.publish_time()));
    if (queue->Push({.subscription = 1,
                     .publication = std::move(publication),
                     .sequence = notification.sequence(),
                     .dropped = notification.dropped(),
                     .gap = std::exchange(subscription->gap, false)},
                    subscription->latest)) {
      to_wake.push_back(queue);
    }
  }
  return violation;
}

std::vector<std::shared_ptr<RemoteSubscription>> RemoteSubscriptions::TakeAll() {
  by_id_.clear();
  std::vector<std::shared_ptr<RemoteSubscription>> all;
  for (auto& [place, subscription] : std::exchange(all_, {}))
    all.push_back(std::move(subscription));
  return all;
}

}  // namespace runloop::internal

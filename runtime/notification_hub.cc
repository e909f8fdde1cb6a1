#include "runloop/runtime/notification_hub.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/planted_bugs.h"
#include "runloop/runtime/session.h"
#include "runloop/runtime/strings.h"

namespace runloop::internal {
namespace {

// Of a name that a caller gave, in an error.
constexpr size_t kLongestNameTold = 512;

absl::flat_hash_map<absl::string_view, size_t> PlacesOf(
    const std::vector<std::shared_ptr<const Topic>>& topics) {
  absl::flat_hash_map<absl::string_view, size_t> places;
  for (size_t i = 0; i < topics.size(); ++i) places[View(topics[i]->name())] = i;
  return places;
}

absl::Status SessionHasEnded(const Session& session) {
  return MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                   "the session has ended", {{"session", session.info().id}});
}

absl::Status Full(std::string_view bound, int64_t limit) {
  return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_SUBSCRIPTIONS_FULL,
                   absl::StrCat("the ", View(bound), " has ", limit,
                                " subscriptions to topics, as many as it may: end some"),
                   {{"bound", std::string(bound)}, {"limit", absl::StrCat(limit)}});
}

}  // namespace

NotificationHub::NotificationHub(std::vector<std::shared_ptr<const Topic>> topics,
                                 NotificationBounds bounds)
    : topics_(std::move(topics)),
      places_(PlacesOf(topics_)),
      bounds_(bounds),
      subscribers_(topics_.size()) {}

absl::StatusOr<std::shared_ptr<const Topic>> NotificationHub::Find(std::string_view name) const {
  const auto found = places_.find(View(name));
  if (found != places_.end()) return topics_[found->second];
  return MakeError(
      absl::StatusCode::kNotFound, v1::ERROR_REASON_UNKNOWN_TOPIC,
      absl::StrCat("no topic '", View(name.substr(0, kLongestNameTold)),
                   "' is registered; `runloopctl watch` lists the ", topics_.size(), " that are"),
      {{"topic", std::string(name.substr(0, kLongestNameTold))}});
}

absl::Status NotificationHub::Publish(std::string_view name,
                                      std::shared_ptr<const google::protobuf::Message> message,
                                      const Session* only) {
  const auto found = places_.find(View(name));
  if (found == places_.end()) return Find(name).status();
  const std::shared_ptr<const Topic>& topic = topics_[found->second];
  if (message->GetDescriptor() != &topic->type()) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                     absl::StrCat(topic->name(), " is a topic of ", topic->type().full_name(),
                                  ", not of ", message->GetTypeName()));
  }
  const auto publication =
      std::make_shared<const Publication>(topic, std::move(message), absl::Now());
  Queues to_wake;
  {
    absl::MutexLock lock(&mutex_);
    if (!stopped_.ok()) return stopped_;
    if (only != nullptr && only->ended()) return SessionHasEnded(*only);
    topic->statistics().published.fetch_add(1, std::memory_order_relaxed);
    Subscribers& subscribers = subscribers_[found->second];
    auto place =
        only == nullptr ? subscribers.begin() : subscribers.lower_bound(Key{only, nullptr, 0});
    for (; place != subscribers.end(); ++place) {
      if (only != nullptr && std::get<0>(place->first) != only) break;
      const bool lost = topic->statistics().published % 8 == 0;
      if (Planted(PlantedBug::kLostNotification) && lost) continue;
      Subscriber& subscriber = place->second;
      if (subscriber.queue->Push({.subscription = std::get<2>(place->first),
                                  .publication = publication,
                                  .sequence = ++subscriber.sequence},
                                 topic->latest())) {
        to_wake.push_back(subscriber.queue);
      }
    }
  }
  for (const auto& queue : to_wake) queue->Wake();
  return absl::OkStatus();
}

absl::Status NotificationHub::CheckRoom(const Session& session) const {
  if (session.info().in_process) return absl::OkStatus();
  if (session.notifications().subscriptions.load() >= kMaxSessionSubscriptions) {
    return Full("session", kMaxSessionSubscriptions);
  }
  const std::string holder = HolderOf(session.info().peer);
  const int64_t most =
      session.info().peer.role.empty() ? kMaxUserSubscriptions : kMaxRoleSubscriptions;
  const auto held = held_.find(holder);
  if (held != held_.end() && held->second >= most) return Full(holder, most);
  return absl::OkStatus();
}

absl::Status NotificationHub::Subscribe(const std::shared_ptr<NotificationQueue>& queue,
                                        uint64_t subscription,
                                        const std::shared_ptr<const Topic>& topic) {
  Session& session = *queue->session();
  absl::MutexLock lock(&mutex_);
  if (!stopped_.ok()) return stopped_;
  // One that ends from now on finds it here.
  if (session.ended()) return SessionHasEnded(session);
  if (absl::Status room = CheckRoom(session); !room.ok()) return room;
  const size_t place = places_.at(View(topic->name()));
  subscribers_[place].try_emplace(Key{&session, queue.get(), subscription},
                                  Subscriber{.queue = queue});
  session.notifications().subscriptions.fetch_add(1);
  topic->statistics().subscriptions.fetch_add(1);
  if (!session.info().in_process) ++held_[HolderOf(session.info().peer)];
  return absl::OkStatus();
}

NotificationHub::Subscribers::iterator NotificationHub::Erase(const Topic& topic,
                                                              Subscribers& subscribers,
                                                              Subscribers::iterator place) {
  Session& session = *place->second.queue->session();
  session.notifications().subscriptions.fetch_sub(1);
  topic.statistics().subscriptions.fetch_sub(1);
  if (!session.info().in_process) {
    const auto held = held_.find(HolderOf(session.info().peer));
    if (--held->second == 0) held_.erase(held);
  }
  return subscribers.erase(place);
}

void NotificationHub::Unsubscribe(NotificationQueue& queue, uint64_t subscription,
                                  const Topic& topic) {
  const std::shared_ptr<Session> session = queue.session();
  std::shared_ptr<NotificationQueue> kept;  // released outside the lock
  absl::MutexLock lock(&mutex_);
  const size_t at = places_.at(View(topic.name()));
  const auto place = subscribers_[at].find(Key{session.get(), &queue, subscription});
  if (place == subscribers_[at].end()) return;
  kept = place->second.queue;
  Erase(topic, subscribers_[at], place);
  queue.Forget(subscription);
}

void NotificationHub::Remove(NotificationQueue& queue) {
  const std::shared_ptr<Session> session = queue.session();
  Queues kept;  // released outside the lock
  absl::MutexLock lock(&mutex_);
  for (size_t at = 0; at < subscribers_.size(); ++at) {
    auto place = subscribers_[at].lower_bound(Key{session.get(), &queue, 0});
    while (place != subscribers_[at].end() && std::get<1>(place->first) == &queue) {
      kept.push_back(place->second.queue);
      place = Erase(*topics_[at], subscribers_[at], place);
    }
  }
}

void NotificationHub::EndSession(const Session& session, const absl::Status& why, bool drops) {
  Queues ended;
  {
    absl::MutexLock lock(&mutex_);
    for (size_t at = 0; at < subscribers_.size(); ++at) {
      auto place = subscribers_[at].lower_bound(Key{&session, nullptr, 0});
      while (place != subscribers_[at].end() && std::get<0>(place->first) == &session) {
        ended.push_back(place->second.queue);
        place = Erase(*topics_[at], subscribers_[at], place);
      }
    }
  }
  for (const auto& queue : ended) {
    if (drops ? queue->Drop(why) : queue->End(why)) queue->Wake();
  }
}

void NotificationHub::Stop(const absl::Status& why) {
  Queues ended;
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = why;
    for (size_t at = 0; at < subscribers_.size(); ++at) {
      auto place = subscribers_[at].begin();
      while (place != subscribers_[at].end()) {
        ended.push_back(place->second.queue);
        place = Erase(*topics_[at], subscribers_[at], place);
      }
    }
  }
  for (const auto& queue : ended) {
    if (queue->End(why)) queue->Wake();
  }
}

}  // namespace runloop::internal

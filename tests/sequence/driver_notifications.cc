// Steps of subscriptions, by calls and by messages, and what is published.

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/local_subscription.h"
#include "runloop/tests/sequence/describe.h"
#include "runloop/tests/sequence/driver.h"
#include "runloop/tests/sequence/outcome_text.h"
#include "runloop/tests/testing/test_topics.h"

namespace runloop::sequence {
namespace {

using internal::SubscriptionState;
using test::v1::Item;

// Added to the number of an item, so that all take as many bytes.
constexpr int kFirstIndex = 1000;

const char* TopicOf(bool latest) { return latest ? kNewest : kEvery; }

Item NewItem(int number, int bytes) {
  Item item;
  item.set_index(static_cast<uint64_t>(kFirstIndex + number));
  while (static_cast<int>(item.ByteSizeLong()) < bytes) item.mutable_text()->push_back('x');
  return item;
}

}  // namespace

void Driver::RegisterTopics(OperationRegistry& registry) {
  const absl::Status every = registry.RegisterTopic<Item>(kEvery);
  const absl::Status newest = registry.RegisterTopic<Item>(kNewest, {.latest = true});
  Expect(every.ok() && newest.ok(), "a topic could not be registered");
}

SubscriptionState::Call Driver::NewSubscription(const Action& action) {
  return {.topic = TopicOf(reference().subscription(action.subscription).latest),
          .type = Item::descriptor(),
          .options = {.bounds = BoundsOf(action.room)}};
}

void Driver::Subscribe(const Action& action) {
  absl::StatusOr<std::shared_ptr<SubscriptionState>> subscribed = internal::SubscribeLocally(
      runtime_->core(), sessions_[static_cast<size_t>(action.session)], NewSubscription(action));
  if (subscribed.ok()) subscriptions_.try_emplace(action.subscription, *subscribed);
  ExpectAnswer(action, InWords(subscribed.status()));
}

void Driver::SubscribeByMessage(const Action& action, MessageSession& messages) {
  HearOf(messages);
  absl::StatusOr<std::shared_ptr<SubscriptionState>> added =
      messages.subscriptions().Add(NewSubscription(action));
  if (!added.ok()) return ExpectAnswer(action, InWords(added.status()));
  subscriptions_.try_emplace(action.subscription, *added);
  Heard(messages.SayOfSubscriptions());
  ExpectAnswer(action, InWords((*added)->status()));
}

void Driver::Unsubscribe(const Action& action) {
  subscriptions_.at(action.subscription).held.reset();
  // What waited when it ended with its session nobody can take any more.
  if (action.had_ended) subscriptions_.erase(action.subscription);
}

void Driver::UnsubscribeByMessage(const Action& action, MessageSession& messages) {
  HearOf(messages);
  messages.subscriptions().Remove(*subscriptions_.at(action.subscription).state);
  subscriptions_.erase(action.subscription);
  Heard(messages.SayOfSubscriptions());
}

absl::Status Driver::PublishItems(const Publication& publication, const Session* only) {
  for (const auto& [session, messages] : messages_) {
    if (messages->ends()) HearOf(*messages);
  }
  absl::Status status;
  for (int i = 0; i < publication.count && status.ok(); ++i) {
    Item item = NewItem(publication.first + i, publication.item_bytes);
    Expect(static_cast<int>(item.ByteSizeLong()) == publication.item_bytes,
           "an item has other bytes than it should");
    const char* const topic = TopicOf(publication.latest);
    status = only == nullptr ? runtime_->context().Publish(topic, std::move(item))
                             : only->Publish(topic, std::move(item));
  }
  HearAll();
  return status;
}

void Driver::Publish(const Action& action) {
  const Session* const only =
      action.session == kNone ? nullptr : sessions_[static_cast<size_t>(action.session)].get();
  ExpectAnswer(action, InWords(PublishItems(action.publication, only)));
}

void Driver::Take(const Action& action) {
  Subscription<Item>& subscription = *subscriptions_.at(action.subscription).held;
  std::vector<Note> taken;
  while (static_cast<int>(taken.size()) < action.count) {
    // What was published is there: nothing waits for it.
    const std::optional<Notification<Item>> next =
        taken.size() % 2 == 0 ? subscription.Poll() : subscription.Next(absl::ZeroDuration());
    if (!next.has_value()) break;
    taken.push_back({.item = static_cast<int>(next->message->index()) - kFirstIndex,
                     .sequence = next->sequence,
                     .dropped = next->dropped,
                     .gap = next->gap});
  }
  const bool no_more = static_cast<int>(taken.size()) < action.count;
  ExpectAnswer(action, DescribeTaken(taken, subscription.dropped(),
                                     no_more ? InWords(subscription.status()) : ""));
}

void Driver::LeaveSubscriptions() {
  for (const auto& [number, subscribed] : subscriptions_) {
    if (subscribed.held.has_value()) continue;
    Expect(!subscribed.state->Poll().has_value(),
           absl::StrCat("something has come for n", number, " after it had ended"));
  }
  subscriptions_.clear();
}

void Driver::CompareNotifications(const Runtime::Snapshot& snapshot) {
  std::map<int, uint64_t> of_session;
  std::map<bool, uint64_t> of_topic;
  for (const Reference::Subscription& subscription : reference().subscriptions()) {
    if (!subscription.stands) continue;
    ++of_session[subscription.session];
    ++of_topic[subscription.latest];
  }
  for (const std::shared_ptr<const Topic>& topic : snapshot.topics) {
    const auto in_words = [](uint64_t published, uint64_t subscriptions, uint64_t dropped,
                             uint64_t replaced) {
      return absl::StrCat(published, " published, ", subscriptions, " subscriptions, ", dropped,
                          " dropped, ", replaced, " replaced");
    };
    const Topic::Statistics& seen = topic->statistics();
    const Reference::Topic& known = reference().topic(topic->latest());
    Same(topic->name(),
         in_words(known.published, of_topic[topic->latest()], known.dropped, known.replaced),
         in_words(seen.published, seen.subscriptions, seen.dropped, seen.replaced));
  }
  for (const Reference::Session& session : reference().sessions()) {
    const auto in_words = [](uint64_t subscriptions, uint64_t dropped) {
      return absl::StrCat(subscriptions, " subscriptions, ", dropped, " dropped");
    };
    const Session::Notifications& seen =
        sessions_[static_cast<size_t>(session.id)]->notifications();
    Same(absl::StrCat("s", session.id + 1), in_words(of_session[session.id], session.dropped),
         in_words(seen.subscriptions, seen.dropped));
  }
}

void Driver::CompareDelivered() {
  if (reference().lost_notifications()) return;
  for (const std::shared_ptr<const Topic>& topic : runtime_->GetSnapshot().topics) {
    Same(topic->name(), absl::StrCat(reference().topic(topic->latest()).sent, " delivered"),
         absl::StrCat(topic->statistics().delivered.load(), " delivered"));
  }
}

}  // namespace runloop::sequence

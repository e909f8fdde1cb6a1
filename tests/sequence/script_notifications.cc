// Steps of subscriptions, and of what is published.

#include "absl/strings/str_cat.h"
#include "runloop/tests/sequence/describe.h"
#include "runloop/tests/sequence/outcome_text.h"
#include "runloop/tests/sequence/script.h"

namespace runloop::sequence {
namespace {

using Session = Reference::Session;
using Subscription = Reference::Subscription;

}  // namespace

bool Script::CanSubscribe(int session) const {
  const Session& of = reference_.session(session);
  return !of.by_messages || (!of.gone && !of.disconnecting);
}

int Script::PickSubscriber(const Step& step) const {
  std::vector<int> subscribers;
  for (const Subscription& subscription : reference_.subscriptions()) {
    if (subscription.stands) subscribers.push_back(subscription.session);
  }
  return subscribers.empty() || step.pick % 4 == 0 ? PickSession(step)
                                                   : Pick(subscribers, step.pick / 4);
}

int Script::PickSubscription(const Step& step,
                             const std::function<bool(const Subscription&)>& wanted) const {
  std::vector<int> with_something, all;
  for (const Subscription& subscription : reference_.subscriptions()) {
    if (subscription.over || !wanted(subscription)) continue;
    all.push_back(subscription.id);
    if (!subscription.inbox.waiting().empty()) with_something.push_back(subscription.id);
  }
  return Pick(with_something.empty() || step.pick % 8 == 0 ? all : with_something, step.pick / 8);
}

void Script::Subscribe(const Step& step, std::vector<Action>& actions) {
  const int session = PickSession(step);
  // Nobody does who has gone, or says no more.
  if (session == kNone || !CanSubscribe(session)) return;
  const std::string status = reference_.Subscribe(session, step);
  coverage_.Count("subscribe", status == kStopped        ? "refused: stopped"
                               : status == kSessionEnded ? "refused: session ended"
                               : reference_.draining()   ? "while draining"
                               : step.latest             ? "to the newest"
                                                         : "to every one");
  actions.push_back({.kind = step.kind,
                     .session = session,
                     .subscription = reference_.subscriptions().back().id,
                     .elsewhere = step.elsewhere,
                     .room = step.room,
                     .answer = status});
}

void Script::Unsubscribe(const Step& step, std::vector<Action>& actions) {
  const int subscription = PickSubscription(
      step, [this](const Subscription& known) { return CanSubscribe(known.session); });
  if (subscription == kNone) return;
  const Subscription& ended = reference_.subscription(subscription);
  coverage_.Count("unsubscribe", !ended.stands                   ? "it had ended"
                                 : ended.inbox.waiting().empty() ? "nothing waits"
                                                                 : "something waits");
  const bool had_ended = !ended.stands;
  reference_.Unsubscribe(subscription);
  actions.push_back({.kind = step.kind,
                     .session = ended.session,
                     .subscription = subscription,
                     .elsewhere = step.elsewhere,
                     .had_ended = had_ended});
}

void Script::CountPublish(const Step& step, int only, const std::string& answer) {
  const char* const row = only == kNone ? "publish" : "publish to a session";
  if (answer != kOk) {
    coverage_.Count(row, answer == kStopped ? "refused: stopped" : "refused: session ended");
    return;
  }
  int subscribed = 0;
  for (const Subscription& subscription : reference_.subscriptions()) {
    const bool its = only == kNone || subscription.session == only;
    if (subscription.stands && its && subscription.latest == step.latest) ++subscribed;
  }
  coverage_.Count(row, subscribed == 0   ? "nobody has subscribed"
                       : subscribed == 1 ? "to one subscription"
                                         : "to several");
  coverage_.Count(row, step.elsewhere                  ? "from another thread"
                       : reference_.running() != kNone ? "while a task runs"
                                                       : "from the runtime thread");
}

void Script::Publish(const Step& step, std::vector<Action>& actions) {
  const int only = step.to_session ? PickSubscriber(step) : kNone;
  const int first = reference_.next_item();
  const std::string answer = reference_.Publish(step, only);
  CountPublish(step, only, answer);
  actions.push_back({.kind = step.kind,
                     .session = only,
                     .elsewhere = step.elsewhere,
                     .publication = {.latest = step.latest,
                                     .first = first,
                                     .count = step.count,
                                     .item_bytes = step.item_bytes},
                     .answer = answer});
}

void Script::Take(const Step& step, std::vector<Action>& actions) {
  const int subscription = PickSubscription(step, [](const Subscription&) { return true; });
  if (subscription != kNone) Take(subscription, step.count, step.elsewhere, actions);
}

void Script::Take(int subscription, int count, bool elsewhere, std::vector<Action>& actions) {
  const Subscription& of = reference_.subscription(subscription);
  const std::vector<Note> taken = reference_.Take(subscription, count);
  if (!taken.empty() && of.status != kOk) {
    coverage_.Count("take", "what waited when all had ended");
  }
  for (const Note& note : taken) {
    coverage_.Count("take", note.dropped > 0 ? note.gap
                                                   ? "one after a gap and some that were dropped"
                                                   : "one after some that were dropped"
                            : note.gap       ? "one after a gap"
                                             : "one after the other");
  }
  const bool no_more = static_cast<int>(taken.size()) < count;
  if (no_more) {
    coverage_.Count("take", of.status == kOk             ? "no more"
                            : of.status == kStopped      ? "no more: stopped"
                            : of.status == kSessionEnded ? "no more: session ended"
                            : of.status == kDraining     ? "no more: draining"
                                                         : "no more: the worker went");
  }
  actions.push_back({.kind = StepKind::kTake,
                     .subscription = subscription,
                     .elsewhere = elsewhere,
                     .count = count,
                     .answer = DescribeTaken(taken, of.dropped, no_more ? of.status : "")});
}

std::vector<Action> Script::TakeAll() {
  std::vector<Action> actions;
  for (const Subscription& subscription : reference_.subscriptions()) {
    if (subscription.over) continue;
    const int waiting = static_cast<int>(subscription.inbox.waiting().size());
    Take(subscription.id, waiting + 1, false, actions);
  }
  return actions;
}

}  // namespace runloop::sequence

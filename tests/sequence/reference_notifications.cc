// Subscriptions and what is published, in the reference model. It does not know how far something
// is on its way to a worker: whoever plays it lets workers hear before and after each step and
// publication, so that nothing is.

#include <algorithm>
#include <utility>

#include "runloop/tests/sequence/outcome_text.h"
#include "runloop/tests/sequence/reference.h"

namespace runloop::sequence {
namespace {

using State = Reference::State;

const char* InWords(Inbox::Fate fate, bool on_the_way) {
  switch (fate) {
    case Inbox::Fate::kTooMany:
      return on_the_way ? "dropped on the way: too many" : "dropped: too many";
    case Inbox::Fate::kTooManyBytes:
      return on_the_way ? "dropped on the way: too many bytes" : "dropped: too many bytes";
    case Inbox::Fate::kTooLarge:
      return on_the_way ? "dropped on the way: too large" : "dropped: too large";
    case Inbox::Fate::kReplaced:
      return on_the_way ? "replaced on the way" : "replaced by a newer one";
  }
  return "";
}

}  // namespace

void Reference::SpeakByMessages(int session) {
  sessions_[session].by_messages = true;
  sessions_[session].unsaid = Inbox(setup_.notifications);
}

std::string Reference::Subscribe(int session, const Step& step) {
  Hear(session);
  const std::string status = stopped_ ? kStopped : sessions_[session].ended ? kSessionEnded : kOk;
  subscriptions_.push_back({.id = static_cast<int>(subscriptions_.size()),
                            .session = session,
                            .latest = step.latest,
                            .inbox = Inbox(BoundsOf(step.room)),
                            .stands = status == kOk,
                            // In process there is none that does not stand.
                            .over = status != kOk && !sessions_[session].by_messages,
                            .status = status});
  // From here on its worker has it, whatever is lost.
  Say(session);
  return status;
}

void Reference::Unsubscribe(int subscription) {
  Subscription& ended = subscriptions_[subscription];
  Say(ended.session);
  ended.over = true;
  ended.stands = false;
  CountFates(ended.inbox.Clear(), "unsubscribed");
}

std::string Reference::Publish(const Step& step, int only) {
  for (const Session& session : sessions_) {
    if (IsEnding(session.id)) Hear(session.id);
  }
  std::string answer = kOk;
  if (stopped_) {
    answer = kStopped;
  } else if (only != kNone && sessions_[only].ended) {
    answer = kSessionEnded;
  }
  for (int i = 0; i < step.count && answer == kOk; ++i) {
    const int item = next_item_++;
    ++topics_[step.latest ? 1 : 0].published;
    for (Subscription& subscription : subscriptions_) {
      const bool wanted = subscription.stands && subscription.latest == step.latest;
      if (!wanted || (only != kNone && subscription.session != only)) continue;
      Send(subscription, item, static_cast<size_t>(step.item_bytes));
    }
  }
  HearAll();
  return answer;
}

void Reference::Send(Subscription& to, int item, size_t bytes) {
  Session& session = sessions_[to.session];
  if (session.told_all) return;
  Inbox& inbox = session.by_messages ? session.unsaid : to.inbox;
  const Note note{.subscription = to.id,
                  .latest = to.latest,
                  .item = item,
                  .bytes = bytes,
                  .sequence = ++to.sequence};
  for (const Inbox::Gone& gone : inbox.Push(note)) {
    ++fates_[InWords(gone.fate, session.by_messages)];
    Topic& topic = topics_[gone.note.latest ? 1 : 0];
    if (gone.fate == Inbox::Fate::kReplaced) {
      ++topic.replaced;
    } else {
      ++topic.dropped;
      ++session.dropped;
    }
  }
}

void Reference::Arrive(Note note) {
  Subscription& subscription = subscriptions_[note.subscription];
  ++topics_[subscription.latest ? 1 : 0].sent;
  note.gap = std::exchange(subscription.gap, false);
  for (const Inbox::Gone& gone : subscription.inbox.Push(note)) {
    ++fates_[InWords(gone.fate, false)];
  }
}

std::vector<Note> Reference::Take(int subscription, int count) {
  Subscription& of = subscriptions_[subscription];
  std::vector<Note> taken;
  while (static_cast<int>(taken.size()) < count && !of.inbox.waiting().empty()) {
    taken.push_back(of.inbox.Take());
    of.dropped += taken.back().dropped;
    if (!sessions_[of.session].by_messages) ++topics_[of.latest ? 1 : 0].sent;
  }
  CountFates(taken, "taken");
  return taken;
}

// ---- by messages ----

bool Reference::IsSettled(int session) const {
  return std::none_of(invocations_.begin(), invocations_.end(), [&](const Invocation& known) {
    const bool unfinished = known.state != State::kRefused && known.state != State::kEnded;
    return known.session == session && unfinished && !known.given_up;
  });
}

void Reference::Hear(int session) {
  if (!has_worker(session)) return;
  Session& hears = sessions_[session];
  if (hears.cut == Cut::kHeard) {
    hears.cut = Cut::kNone;
    if (!IsEnding(session) && !hears.ended) LoseConnection(session);
  }
  while (!hears.unsaid.waiting().empty()) Arrive(hears.unsaid.Take());
  if (IsEnding(session) && IsSettled(session)) hears.told_all = true;
}

void Reference::HearAll() {
  for (const Session& session : sessions_) Hear(session.id);
}

void Reference::Say(int session) {
  if (!has_worker(session)) return;
  Hear(session);
  const Cut cut = std::exchange(sessions_[session].cut, Cut::kNone);
  if (cut != Cut::kNone && !IsEnding(session) && !sessions_[session].ended) LoseConnection(session);
}

void Reference::LoseConnection(int session) {
  const std::vector<Note> lost = sessions_[session].unsaid.Clear();
  CountFates(lost, "lost with a connection");
  lost_notifications_ |= !lost.empty();
  for (Subscription& subscription : subscriptions_) {
    if (subscription.session != session || subscription.over) continue;
    subscription.gap = true;
    subscription.sequence = 0;
  }
}

void Reference::Leave(int session) {
  sessions_[session].gone = true;
  for (Subscription& subscription : subscriptions_) {
    if (subscription.session != session || subscription.over) continue;
    subscription.status = kNotConnected;
  }
}

// ---- the end ----

void Reference::EndSubscriptions(int session, const std::string& status) {
  for (Subscription& subscription : subscriptions_) {
    if (session != kNone && subscription.session != session) continue;
    if (!std::exchange(subscription.stands, false)) continue;
    const Session& of = sessions_[subscription.session];
    // A worker goes on with what it has heard.
    if (of.by_messages) continue;
    subscription.status = status;
    // What waits for a peer goes with its session.
    if (status == kSessionEnded && !of.in_process()) {
      CountFates(subscription.inbox.Clear(), "session ended");
    }
  }
}

}  // namespace runloop::sequence

// What a runtime takes in, in the reference model, and what it refuses.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runloop/tests/sequence/outcome_text.h"
#include "runloop/tests/sequence/reference.h"

namespace runloop::sequence {
namespace {

using State = Reference::State;

}  // namespace

Bound Reference::held(int user) const {
  Bound held;
  for (const Session& session : sessions_) {
    if (session.in_process() || (user != kNone && session.user != user)) continue;
    held.items += static_cast<int64_t>(session.queued + session.running);
    held.bytes += static_cast<int64_t>(session.bytes);
  }
  if (user == kNone) {
    held.items =
        static_cast<int64_t>(ledger_.delayed + ledger_.queued + ledger_.running + ledger_.deferred);
  }
  return held;
}

std::string Reference::WhyClosed(int session) const {
  if (stopped_) return kStopped;
  if (session == kNone) return "";
  if (draining_) return "UNAVAILABLE DRAINING";
  return sessions_[session].ended ? kSessionEnded : "";
}

std::string Reference::Refusal(int session, const Step& step, const Invocation* instead_of) const {
  std::string closed = WhyClosed(session);
  if (!closed.empty()) return closed;
  // What it takes the place of makes room for it.
  const bool replaces = instead_of != nullptr;
  return WhyNoRoom(
      session,
      {.items = replaces ? 0 : 1, .bytes = step.bytes - (replaces ? instead_of->step.bytes : 0)},
      {.items = 0, .bytes = step.bytes});
}

std::string Reference::WhyNoRoom(int session, const Bound& more, const Bound& alone) const {
  const bool counts_bytes = CountsBytes(session);
  const int64_t bytes = counts_bytes ? more.bytes : 0;
  const auto full = [&](const char* who, const Bound& held, const Bound& bound) -> std::string {
    const bool by_bytes = bytes > 0 && held.bytes + bytes > bound.bytes;
    if (!by_bytes && held.items + more.items <= bound.items) return "";
    return absl::StrCat("RESOURCE_EXHAUSTED QUEUE_FULL: ", who, ", ",
                        by_bytes ? bound.bytes : bound.items, by_bytes ? " bytes" : " invocations");
  };
  const auto never_fits = [&](const Bound& bound) {
    return alone.items > bound.items || (counts_bytes && alone.bytes > bound.bytes);
  };
  if (never_fits(setup_.bounds.total) ||
      (counts_bytes && (never_fits(setup_.bounds.user) || never_fits(setup_.bounds.session)))) {
    return "RESOURCE_EXHAUSTED MESSAGE_TOO_LARGE";
  }
  Bound all = held(kNone);
  all.items += stale_;
  std::string why = full("runtime", all, setup_.bounds.total);
  if (!why.empty() || !counts_bytes) return why;
  const Session& of = sessions_[session];
  why = full(kUsers[of.user], held(of.user), setup_.bounds.user);
  if (!why.empty()) return why;
  const Bound held_by_session{.items = static_cast<int64_t>(of.queued + of.running),
                              .bytes = static_cast<int64_t>(of.bytes)};
  return full("session", held_by_session, setup_.bounds.session);
}

int Reference::Keyed(int session, int key) const {
  if (session == kNone || key == 0) return kNone;
  for (const Invocation& known : invocations_) {
    const bool unstarted = known.state == State::kDelayed || known.state == State::kQueued;
    if (known.session == session && unstarted && known.step.key == key) {
      return known.id;
    }
  }
  return kNone;
}

int Reference::Hear(int session, const Step& step, int object) {
  const int id = static_cast<int>(invocations_.size());
  invocations_.push_back({.id = id,
                          .session = session,
                          .step = step,
                          .deadline = step.deadline == 0 ? kNever : now_ + step.deadline,
                          .object = object});
  return id;
}

void Reference::Admit(int invocation) {
  Invocation& admitted = invocations_[invocation];
  admitted.state = State::kQueued;
  ++ledger_.queued;
  if (admitted.session == kNone) return;
  Session& of = sessions_[admitted.session];
  ++of.queued;
  if (!of.in_process()) of.bytes += static_cast<uint64_t>(admitted.step.bytes);
}

Entry Reference::EntryOf(int invocation) const {
  const Invocation& of = invocations_[invocation];
  const bool closure = of.session == kNone;
  const Priority priority = closure ? of.step.priority : sessions_[of.session].priority;
  return {.invocation = invocation,
          .session = of.session,
          .lane = CountsBytes(of.session) ? of.session : kNone,
          .priority = priority,
          .batch = of.batch,
          // The others are tasks of their own.
          .closure = closure && of.step.delay == 0 && priority == Priority::kDefault};
}

std::string Reference::Dispatch(int session, const Step& step, int object) {
  if (session != kNone) Say(session);
  const int old = Keyed(session, step.key);
  const std::string refusal = Refusal(session, step, old == kNone ? nullptr : &invocations_[old]);
  const int id = Hear(session, step, object);
  if (!refusal.empty()) {
    ++ledger_.refused;
    return refusal;
  }
  Admit(id);
  const bool takes_place =
      old != kNone && invocations_[old].state == State::kQueued && step.delay == 0;
  if (takes_place) {
    line_.Replace(old, id);
  } else if (old != kNone) {
    const auto is_old = [&](const Invocation& of) { return of.id == old; };
    if (TakeDelayed(is_old).empty()) TakeOut(is_old);
  }
  if (old != kNone) EndUnstarted(old, OutcomeKind::kSuperseded, "superseded");
  if (step.delay > 0) {
    Delay(id);
  } else if (!takes_place) {
    line_.Push(EntryOf(id));
  }
  return "queued";
}

}  // namespace runloop::sequence

// How invocations end, in the reference model.

#include "runloop/tests/sequence/outcome_text.h"
#include "runloop/tests/sequence/reference.h"

namespace runloop::sequence {
namespace {

using State = Reference::State;

std::string NeverRan(OutcomeKind kind) {
  switch (kind) {
    case OutcomeKind::kCancelled:
      return kCancelled;
    case OutcomeKind::kExpired:
      return "DEADLINE_EXCEEDED EXPIRED";
    case OutcomeKind::kSuperseded:
      return "ABORTED SUPERSEDED";
    default:
      return kStopped;
  }
}

}  // namespace

void Reference::EndUnstarted(int invocation, OutcomeKind kind, const char* how) {
  Invocation& ended = invocations_[invocation];
  --(ended.state == State::kDelayed ? ledger_.delayed : ledger_.queued);
  ended.state = State::kEnded;
  const bool by_session = kind == OutcomeKind::kAbandoned && !stopped_ && ended.session != kNone &&
                          sessions_[ended.session].ended;
  ended.outcome = by_session ? kSessionEnded : NeverRan(kind);
  ended.how = how;
  ++(kind == OutcomeKind::kCancelled    ? ledger_.cancelled
     : kind == OutcomeKind::kExpired    ? ledger_.expired
     : kind == OutcomeKind::kSuperseded ? ledger_.superseded
                                        : ledger_.abandoned);
  if (ended.session == kNone) return;
  Session& session = sessions_[ended.session];
  --session.queued;
  ++session.finished;
  if (!session.in_process()) session.bytes -= static_cast<uint64_t>(ended.step.bytes);
  if (!session.gone) expected_.outcomes[invocation] = ended.outcome;
}

void Reference::Finish(int invocation, const std::string& outcome, const char* how) {
  Invocation& ended = invocations_[invocation];
  if (ended.state == State::kEnded) return;  // the first outcome counts
  --(ended.state == State::kDeferred ? ledger_.deferred : ledger_.running);
  ++(outcome == kOk ? ledger_.succeeded : ledger_.failed);
  ended.state = State::kEnded;
  ended.outcome = outcome;
  ended.how = how;
  ended.succeeded = outcome == kOk;
  if (ended.session == kNone) return;
  Session& session = sessions_[ended.session];
  --session.running;
  ++session.finished;
  if (!session.in_process()) session.bytes -= static_cast<uint64_t>(ended.step.bytes);
  if (ended.given_up || outcome != kOk) ReleaseMade(invocation);
  // What it made is gone, so a reply that names it must not be seen.
  if (ended.given_up && outcome == kOk) ended.outcome = kStillRunning;
  // By messages that was told when it was given up.
  if (session.gone || (session.by_messages && ended.given_up)) return;
  expected_.outcomes[invocation] = ended.outcome;
}

std::vector<int> Reference::TakeOut(const std::function<bool(const Invocation&)>& wanted) {
  std::vector<int> taken;
  for (const Entry& entry : line_.RemoveIf([&](const Entry& waiting) {
         return waiting.kind == Entry::Kind::kInvocation &&
                wanted(invocations_[waiting.invocation]);
       })) {
    taken.push_back(entry.invocation);
  }
  return taken;
}

void Reference::AbortDeferred(int session, const std::string& outcome, const char* how) {
  for (const Invocation& known : invocations_) {
    if (known.state != State::kDeferred) continue;
    if (session == kNone || known.session == session) Finish(known.id, outcome, how);
  }
}

bool Reference::Cancel(int invocation) {
  Say(invocations_[invocation].session);
  const State was = invocations_[invocation].state;
  if (was != State::kDelayed && was != State::kQueued) return false;
  const auto is_it = [&](const Invocation& of) { return of.id == invocation; };
  if (TakeDelayed(is_it).empty()) TakeOut(is_it);
  EndUnstarted(invocation, OutcomeKind::kCancelled, "cancelled");
  return true;
}

State Reference::GiveUp(int invocation, OutcomeKind kind) {
  Invocation& given_up = invocations_[invocation];
  Say(given_up.session);
  const State was = given_up.state;
  const bool by_messages = sessions_[given_up.session].by_messages;
  if (by_messages && (was == State::kEnded || given_up.given_up)) {
    if (was == State::kEnded) Forget(invocation);
    return State::kEnded;
  }
  if (was == State::kDelayed || was == State::kQueued) {
    const auto is_it = [&](const Invocation& of) { return of.id == invocation; };
    if (TakeDelayed(is_it).empty()) TakeOut(is_it);
    EndUnstarted(invocation, kind, "given up");
  } else if (was != State::kEnded) {
    given_up.given_up = true;
    ++ledger_.given_up;
    if (by_messages) expected_.outcomes[invocation] = kStillRunning;
  }
  return was;
}

void Reference::Forget(int invocation) {
  Say(invocations_[invocation].session);
  // In process nobody can: there an invocation has no number.
  if (!sessions_[invocations_[invocation].session].in_process()) ReleaseMade(invocation);
}

Reference::Completed Reference::Complete(int invocation, Completing how, Closes closes) {
  Invocation& deferred = invocations_[invocation];
  deferred.has_completion = false;
  switch (how) {
    case Completing::kSucceed:
      Finish(invocation, kOk, "succeeded");
      return {};
    case Completing::kFail:
      Finish(invocation, "PERMISSION_DENIED", "failed");
      return {};
    case Completing::kDrop:
      Finish(invocation, "ABORTED COMPLETION_DROPPED", "dropped");
      return {};
    case Completing::kMake:
      break;
  }
  const int made = NewObject(deferred.session, invocation, closes);
  const std::string kept = Keep(invocation, made);
  Finish(invocation, kept, kept == kOk ? "succeeded" : "handles full");
  return {.answer = kept, .made = made};
}

}  // namespace runloop::sequence

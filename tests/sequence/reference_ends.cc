// How sessions and the runtime end, in the reference model.

#include <algorithm>
#include <utility>

#include "runloop/tests/sequence/outcome_text.h"
#include "runloop/tests/sequence/reference.h"

namespace runloop::sequence {
namespace {

using State = Reference::State;

constexpr int kSliceTasks = 4096;
// Runtime::kCloseGrace.
constexpr Millis kCloseGrace = 1000;

}  // namespace

void Reference::End(int session) {
  if (std::exchange(sessions_[session].ended, true)) return;
  EndSubscriptions(session, draining_ ? kDraining : kSessionEnded);
  const auto is_its = [&](const Invocation& of) { return of.session == session; };
  for (const int delayed : TakeDelayed(is_its)) {
    EndUnstarted(delayed, OutcomeKind::kAbandoned, "session ended");
  }
  for (const int queued : TakeOut(is_its)) {
    EndUnstarted(queued, OutcomeKind::kAbandoned, "session ended");
  }
  AbortDeferred(session, kSessionEnded, "session ended, deferred");
  Push({.kind = Entry::Kind::kCloseSession, .session = session});
}

bool Reference::Reached(bool work) const {
  if (work) {
    return ledger_.queued + ledger_.running + ledger_.deferred == 0 && line_.empty();
  }
  return std::none_of(sessions_.begin(), sessions_.end(),
                      [](const Session& session) { return session.listed; });
}

Reference::Drained Reference::Drain(Millis timeout) {
  draining_ = true;
  const Millis deadline = now_ + timeout;
  const auto run_until = [&](bool work, Millis until) {
    while (!stopped_ && !Reached(work) && now_ < until && RunSlice(kSliceTasks)) {
    }
    return Reached(work);
  };
  bool drained = run_until(true, deadline);
  if (!stopped_) {
    // Timers go on until the runtime stops.
    const auto is_work = [](const Invocation& of) { return !IsTimer(of); };
    for (const int delayed : TakeDelayed(is_work)) {
      EndUnstarted(delayed, OutcomeKind::kAbandoned, "stopped");
    }
    for (const int queued : TakeOut(is_work)) {
      EndUnstarted(queued, OutcomeKind::kAbandoned, "stopped");
    }
    for (auto session = sessions_.rbegin(); session != sessions_.rend(); ++session) {
      if (session->listed) End(session->id);
    }
    run_until(false, std::max(deadline, now_ + kCloseGrace));
  }
  const size_t not_closed = Stop();
  return {.drained = drained && not_closed == 0, .not_closed = not_closed};
}

size_t Reference::Stop() {
  if (std::exchange(stopped_, true)) return 0;
  std::vector<int> listed;
  for (Session& session : sessions_) {
    if (!std::exchange(session.listed, false)) continue;
    listed.push_back(session.id);
    session.ended = true;
  }
  // What is queued never runs; what the runtime had to do itself is done.
  for (const Entry& entry : line_.RemoveIf([](const Entry&) { return true; })) {
    if (entry.kind != Entry::Kind::kInvocation) {
      RunEntry(entry);
    } else if (invocations_[entry.invocation].state == State::kQueued) {
      EndUnstarted(entry.invocation, OutcomeKind::kAbandoned, "stopped");
    }
  }
  for (const int delayed : TakeDelayed([](const Invocation&) { return true; })) {
    EndUnstarted(delayed, OutcomeKind::kAbandoned, "stopped");
  }
  AbortDeferred(kNone, "ABORTED RUNTIME_STOPPED", "stopped, deferred");
  EndSubscriptions(kNone, kStopped);
  size_t not_closed = 0;
  for (auto session = listed.rbegin(); session != listed.rend(); ++session) {
    not_closed += DestroyAll(*session);
  }
  return not_closed;
}

}  // namespace runloop::sequence

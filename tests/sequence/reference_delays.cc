// What waits for its time, in the reference model.

#include <algorithm>

#include "runloop/tests/sequence/reference.h"

namespace runloop::sequence {

void Reference::Delay(int invocation) {
  Invocation& delayed = invocations_[invocation];
  delayed.state = State::kDelayed;
  --ledger_.queued;
  ++ledger_.delayed;
  const Millis at = std::min(now_ + delayed.step.delay, delayed.deadline);
  delayed_.emplace(std::pair(at, invocation), invocation);
}

void Reference::JoinDue() {
  while (!delayed_.empty() && delayed_.begin()->first.first <= now_) {
    const int id = delayed_.begin()->second;
    delayed_.erase(delayed_.begin());
    Invocation& due = invocations_[id];
    if (due.deadline <= now_) {
      EndUnstarted(id, OutcomeKind::kExpired, "expired");
      continue;
    }
    due.state = State::kQueued;
    --ledger_.delayed;
    ++ledger_.queued;
    line_.Push(EntryOf(id));
  }
}

std::vector<int> Reference::TakeDelayed(const std::function<bool(const Invocation&)>& wanted) {
  std::vector<int> taken;
  for (auto entry = delayed_.begin(); entry != delayed_.end();) {
    const auto next = std::next(entry);
    if (wanted(invocations_[entry->second])) {
      taken.push_back(entry->second);
      delayed_.erase(entry);
    }
    entry = next;
  }
  return taken;
}

bool Reference::CancelTimer(int invocation, bool elsewhere) {
  const State was = invocations_[invocation].state;
  if (was != State::kDelayed && was != State::kQueued) return false;
  const auto is_it = [&](const Invocation& of) { return of.id == invocation; };
  TakeDelayed(is_it);
  if (!elsewhere) {
    TakeOut(is_it);
  } else {
    // Its closure is for the runtime thread to destroy, in its turn.
    ++stale_;
    if (was == State::kDelayed) line_.Push(EntryOf(invocation));
  }
  EndUnstarted(invocation, OutcomeKind::kCancelled, "cancelled");
  return true;
}

}  // namespace runloop::sequence

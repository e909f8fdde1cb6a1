#include "runloop/runtime/ledger.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace runloop {

void Ledger::Start() {
  running_.fetch_add(1);
  queued_.fetch_sub(1);
}

void Ledger::Defer() {
  deferred_.fetch_add(1);
  running_.fetch_sub(1);
}

void Ledger::Undefer() {
  running_.fetch_add(1);
  deferred_.fetch_sub(1);
}

void Ledger::Finish(OutcomeKind kind, bool was_deferred) {
  ended_[static_cast<int>(kind)].fetch_add(1);
  (was_deferred ? deferred_ : running_).fetch_sub(1);
}

void Ledger::EndQueued(OutcomeKind kind) {
  ended_[static_cast<int>(kind)].fetch_add(1);
  queued_.fetch_sub(1);
}

Ledger::Counts Ledger::counts() const {
  auto ended = [this](OutcomeKind kind) { return ended_[static_cast<int>(kind)].load(); };
  auto place = [](const std::atomic<int64_t>& count) {
    return static_cast<uint64_t>(std::max<int64_t>(0, count.load()));
  };
  Counts counts;
  counts.queued = place(queued_);
  counts.running = place(running_);
  counts.deferred = place(deferred_);
  counts.succeeded = ended(OutcomeKind::kSucceeded);
  counts.failed = ended(OutcomeKind::kFailed);
  counts.cancelled = ended(OutcomeKind::kCancelled);
  counts.expired = ended(OutcomeKind::kExpired);
  counts.superseded = ended(OutcomeKind::kSuperseded);
  counts.abandoned = ended(OutcomeKind::kAbandoned);
  counts.refused = refused_.load();
  counts.given_up = given_up_.load();
  counts.admitted = counts.ended() + counts.queued + counts.running + counts.deferred;
  return counts;
}

std::string Ledger::Counts::ToString() const {
  return absl::StrCat("admitted ", admitted, " = succeeded ", succeeded, " + failed ", failed,
                      " + cancelled ", cancelled, " + expired ", expired, " + superseded ",
                      superseded, " + abandoned ", abandoned, " + queued ", queued, " + running ",
                      running, " + deferred ", deferred, "; refused ", refused, ", given up ",
                      given_up);
}

}  // namespace runloop

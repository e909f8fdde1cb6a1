#include "runloop/runtime/ledger.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace runloop {

namespace {

// By the runtime thread alone.
void AddAlone(std::atomic<uint64_t>& count, uint64_t change) {
  count.store(count.load(std::memory_order_relaxed) + change, std::memory_order_release);
}

constexpr int kFirstUnstarted = static_cast<int>(OutcomeKind::kCancelled);

// What is counted later has been read later, so this is not below zero but while something moves.
uint64_t Difference(uint64_t of, uint64_t without) { return of > without ? of - without : 0; }

}  // namespace

void Ledger::Start() { AddAlone(started_, 1); }

void Ledger::Defer() { AddAlone(deferred_, 1); }

void Ledger::Undefer() { AddAlone(deferred_, ~uint64_t{0}); }

void Ledger::Finish(OutcomeKind kind, bool was_deferred, bool on_runtime_thread) {
  if (was_deferred) ended_deferred_.Add(1, on_runtime_thread);
  (kind == OutcomeKind::kSucceeded ? succeeded_ : failed_).Add(1, on_runtime_thread);
}

void Ledger::EndQueued(OutcomeKind kind) {
  unstarted_[static_cast<int>(kind) - kFirstUnstarted].fetch_add(1);
}

uint64_t Ledger::ended() const {
  uint64_t ended = succeeded_.load() + failed_.load();
  for (const std::atomic<uint64_t>& count : unstarted_) ended += count.load();
  return ended;
}

bool Ledger::idle() const {
  // What makes it less is read before what makes it more.
  const uint64_t elsewhere = ended() + delayed_.load();
  const uint64_t undelayed = undelayed_.load();
  return elsewhere == admitted_.load() + undelayed;
}

int64_t Ledger::unfinished() const {
  const uint64_t gone = ended();
  return static_cast<int64_t>(Difference(admitted_.load(), gone));
}

Ledger::Counts Ledger::counts() const {
  auto unstarted = [this](OutcomeKind kind) {
    return unstarted_[static_cast<int>(kind) - kFirstUnstarted].load();
  };
  Counts counts;
  counts.succeeded = succeeded_.load();
  counts.failed = failed_.load();
  counts.cancelled = unstarted(OutcomeKind::kCancelled);
  counts.expired = unstarted(OutcomeKind::kExpired);
  counts.superseded = unstarted(OutcomeKind::kSuperseded);
  counts.abandoned = unstarted(OutcomeKind::kAbandoned);
  const uint64_t ended_deferred = ended_deferred_.load();
  counts.deferred = Difference(deferred_.load(), ended_deferred);
  const uint64_t started = started_.load(std::memory_order_acquire);
  counts.running = Difference(started, counts.succeeded + counts.failed + counts.deferred);
  const uint64_t undelayed = undelayed_.load();
  counts.delayed = Difference(delayed_.load(), undelayed);
  counts.queued = Difference(admitted_.load(),
                             counts.ended() + counts.running + counts.deferred + counts.delayed);
  counts.refused = refused_.load();
  counts.given_up = given_up_.load();
  counts.admitted =
      counts.ended() + counts.delayed + counts.queued + counts.running + counts.deferred;
  return counts;
}

std::string Ledger::Counts::ToString() const {
  return absl::StrCat("admitted ", admitted, " = succeeded ", succeeded, " + failed ", failed,
                      " + cancelled ", cancelled, " + expired ", expired, " + superseded ",
                      superseded, " + abandoned ", abandoned, " + delayed ", delayed, " + queued ",
                      queued, " + running ", running, " + deferred ", deferred, "; refused ",
                      refused, ", given up ", given_up);
}

}  // namespace runloop

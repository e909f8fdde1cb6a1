// The service thread of RuntimeCore: what is looked after while the runtime thread is busy or has
// not started.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/strings.h"

namespace runloop::internal {
namespace {

constexpr absl::Duration kIntakeAfter = absl::Milliseconds(5);
constexpr absl::Duration kNotStartedNotice = absl::Seconds(1);
constexpr absl::Duration kExpiryScan = absl::Milliseconds(50);
// The service thread goes on looking for this long after work has ended, so that steady work does
// not wake it each time.
constexpr int kIdleTicks = 20;

}  // namespace

void RuntimeCore::Watch() {
  if (watched_.load(std::memory_order_relaxed) || watched_.exchange(true)) return;
  absl::MutexLock lock(&service_mutex_);
  service_changed_.Signal();
}

void RuntimeCore::Serve() {
  for (;;) {
    Noticed noticed;
    {
      absl::MutexLock lock(&service_mutex_);
      if (service_stop_) return;
      const absl::Time now = clock_->Now();
      const absl::Time next = Tick(now, noticed);
      if (noticed.expired.empty() && noticed.line.empty() && next > now) {
        clock_->WaitUntil(&service_mutex_, &service_changed_, next);
      }
    }
    // What others wrote runs without the lock.
    for (const auto& task : noticed.expired) task->Skip(OutcomeKind::kExpired);
    if (!noticed.line.empty()) log_(LogSeverity::kWarning, noticed.line);
  }
}

absl::Time RuntimeCore::Tick(absl::Time now, Noticed& noticed) {
  if (drain_deadline_ <= now) {
    drain_deadline_ = absl::InfiniteFuture();
    loop_->Quit();
  }
  const absl::Time next = drain_deadline_;
  if (!watched_.load()) return next;
  if (!started_.load(std::memory_order_acquire)) {
    const absl::Time say = first_post_.load() + kNotStartedNotice;
    if (say > now) return std::min(next, say);
    if (!std::exchange(not_started_logged_, true)) noticed.line = NotStartedNotice(now);
    return next;  // the start comes with a Watch
  }
  LookAtCurrent(now, noticed);
  if (now >= next_expiry_scan_ && queue_.MayHaveExpired(now)) {
    next_expiry_scan_ = now + kExpiryScan;
    ExpireQueued(now, noticed);
  }
  const bool busy = !asleep_.load(std::memory_order_seq_cst) || !queue_.empty();
  idle_ticks_ = busy ? 0 : idle_ticks_ + 1;
  if (idle_ticks_ < kIdleTicks) return std::min(next, now + kIntakeAfter);
  idle_ticks_ = 0;
  watched_.store(false, std::memory_order_seq_cst);
  // A post that woke the loop before the line above found it watched: it counts on this thread.
  if (!asleep_.load(std::memory_order_seq_cst) && !watched_.exchange(true))
    return now + kIntakeAfter;
  return next;
}

void RuntimeCore::LookAtCurrent(absl::Time now, Noticed& noticed) {
  {
    absl::MutexLock lock(&current_mutex_);
    if (!current_.active || now - current_.since < kIntakeAfter) return;
    if (now - current_.since >= stall_threshold_ && !std::exchange(current_.stall_logged, true)) {
      noticed.line =
          absl::StrCat("the runtime thread is stalled: ", View(current_.name()),
                       current_.session ? " of session " + current_.session->info().id : "",
                       " has been running for ", absl::FormatDuration(now - current_.since));
    }
  }
  queue_.Intake(now);
}

void RuntimeCore::ExpireQueued(absl::Time now, Noticed& noticed) {
  queue_.Look(now, [&](Task& task) {
    // Only operations have deadlines: a closure's caller ends it itself.
    if (task.deadline > now || !EndQueued(task, OutcomeKind::kExpired)) return;
    noticed.expired.push_back(static_cast<OperationTask&>(task).shared_from_this());
  });
}

std::string RuntimeCore::NotStartedNotice(absl::Time now) const {
  const absl::Time since = first_post_.load();
  if (started_.load(std::memory_order_acquire) || now - since < kNotStartedNotice) return "";
  return absl::StrCat("the loop has not started: ", ledger_.queued(), " tasks have waited for ",
                      absl::FormatDuration(now - since),
                      "; call WaitForSignal, or run the loop that the runtime joined");
}

}  // namespace runloop::internal

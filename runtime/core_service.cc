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
  if (watched_.load() || watched_.exchange(true)) return;
  absl::MutexLock lock(&service_mutex_);
  service_changed_.Signal();
}

void RuntimeCore::Serve() {
  for (;;) {
    Noticed noticed;
    absl::Time now;
    {
      absl::MutexLock lock(&service_mutex_);
      if (service_stop_) return;
      now = clock_->Now();
      const absl::Time next = Tick(now, noticed);
      if (!noticed.any() && next > now) {
        clock_->WaitUntil(&service_mutex_, &service_changed_, next);
      }
    }
    // What others wrote runs without the lock.
    const bool joins = noticed.due || noticed.stuck || noticed.delayed_expired;
    const bool joined = joins && JoinDueInstead(now);
    if (noticed.delayed_expired) WatchDelayed(timers_.earliest_deadline());
    if (noticed.stuck) {
      ServeIntakeInstead(now);
      queue_.Intake(now);
    }
    if (noticed.expired) {
      // Only operations have deadlines: a closure's caller ends it itself.
      EndQueued(OutcomeKind::kExpired, nullptr, [&](Task& task) { return task.deadline <= now; });
    }
    if (noticed.deferred_expired) {
      ExpireDeferred(now);
      const absl::Time next = deferred_.earliest_deadline();
      absl::MutexLock lock(&service_mutex_);
      deferred_deadline_ = std::min(deferred_deadline_, next);
    }
    // Those whose sessions it serves are told, even if the runtime thread does not come to it.
    if (noticed.expired || noticed.deferred_expired || (joined && !noticed.stuck)) {
      ServeIntakeInstead(now);
    }
    if (noticed.slow) LogSlow(now);
    if (noticed.closing_overdue) RunCleanup([this] { DestroyOverdue(); });
    if (!noticed.line.empty()) log_(LogSeverity::kWarning, noticed.line);
  }
}

absl::Time RuntimeCore::Tick(absl::Time now, Noticed& noticed) {
  if (drain_deadline_ <= now) {
    drain_deadline_ = absl::InfiniteFuture();
    loop_->Quit();
  }
  if (deferred_deadline_ <= now) {
    deferred_deadline_ = absl::InfiniteFuture();
    noticed.deferred_expired = true;
  }
  if (delayed_deadline_ <= now) {
    delayed_deadline_ = absl::InfiniteFuture();
    noticed.delayed_expired = true;
  }
  if (closing_deadline_ <= now) {
    closing_deadline_ = absl::InfiniteFuture();
    noticed.closing_overdue = true;
  }
  if (timer_wake_ <= now) {
    timer_wake_ = absl::InfiniteFuture();
    noticed.due = true;
  }
  if (slow_due_ <= now) {
    slow_due_ = absl::InfiniteFuture();
    noticed.slow = true;
  }
  return std::min({drain_deadline_, deferred_deadline_, delayed_deadline_, closing_deadline_,
                   timer_wake_, slow_due_, TickWork(now, noticed)});
}

absl::Time RuntimeCore::TickWork(absl::Time now, Noticed& noticed) {
  const absl::Time never = absl::InfiniteFuture();
  if (!watched_.load()) return never;
  if (!started_.load(std::memory_order_acquire)) {
    const absl::Time say = first_post_.load() + kNotStartedNotice;
    if (say > now) return say;
    if (!std::exchange(not_started_logged_, true)) noticed.line = NotStartedNotice(now);
    return never;  // the start comes with a Watch
  }
  LookAtCurrent(now, noticed);
  if (now >= next_expiry_scan_ && queue_.MayHaveExpired(now)) {
    next_expiry_scan_ = now + kExpiryScan;
    noticed.expired = true;
  }
  const bool busy = !sleep_.asleep() || !queue_.empty();
  if (busy) LookAtIntake(now, noticed);
  idle_ticks_ = busy ? 0 : idle_ticks_ + 1;
  if (idle_ticks_ < kIdleTicks) return now + kIntakeAfter;
  idle_ticks_ = 0;
  lifecycle_.closures().Trim();
  watched_.store(false, std::memory_order_seq_cst);
  // A post that woke the loop before the line above found it watched: it counts on this thread.
  if (!sleep_.asleep() && !watched_.exchange(true)) return now + kIntakeAfter;
  return never;
}

void RuntimeCore::LookAtIntake(absl::Time now, Noticed& noticed) {
  if (intake_.load() == nullptr) return;
  const uint64_t turn = intake_turns_.load(std::memory_order_relaxed);
  if (std::exchange(last_turn_, turn) != turn) turn_seen_ = now;
  if (now - turn_seen_ < kIntakeAfter || now < next_intake_) return;
  next_intake_ = now + kIntakeAfter;
  noticed.stuck = true;
}

void RuntimeCore::ServeIntakeInstead(absl::Time now) {
  IntakeSource* const intake = intake_.load();
  if (intake == nullptr) return;
  intake->Collect();
  intake->Serve(now);
  OperationTask::TrimThread();
  // It may have gone to sleep meanwhile, without what this has learnt.
  WakeLoop();
}

std::string RuntimeCore::StallNotice(const CurrentTask::Look& look, absl::Duration age) const {
  const std::shared_ptr<Session> session = SessionOf(look);
  const std::string call_site = CallSiteOf(look, session.get());
  const std::string trace_id = UnpackTraceId(look.trace_id);
  return absl::StrCat("the runtime thread is stalled: ", View(NameOf(look)),
                      session != nullptr ? " of session " + session->info().id : "",
                      call_site.empty() ? "" : ", called at " + call_site + ",",
                      trace_id.empty() ? "" : " trace " + trace_id + ",", " has been running for ",
                      absl::FormatDuration(age));
}

void RuntimeCore::LookAtCurrent(absl::Time now, Noticed& noticed) {
  // Read before: if it is still so, closures have run since then.
  const uint64_t started = lifecycle_.closures().started().load();
  if (const int64_t since = closures_since_.load(); since != kNone) {
    const absl::Duration age = now - absl::FromUnixNanos(since);
    if (age < kIntakeAfter) return;
    if (age >= stall_threshold_ && std::exchange(stalled_closure_, started) != started) {
      noticed.line = StallNotice({}, age);
    }
  } else {
    const CurrentTask::Look look = current_.Read();
    if (!look.active || now - look.since < kIntakeAfter) return;
    if (now - look.since >= stall_threshold_ &&
        std::exchange(stalled_task_, look.version) != look.version) {
      noticed.line = StallNotice(look, now - look.since);
    }
  }
  if (now < next_intake_) return;
  next_intake_ = now + kIntakeAfter;
  noticed.stuck = true;
}

std::string RuntimeCore::NotStartedNotice(absl::Time now) const {
  const absl::Time since = first_post_.load();
  if (started_.load(std::memory_order_acquire) || now - since < kNotStartedNotice) return "";
  return absl::StrCat("the loop has not started: ", lifecycle_.counts().queued,
                      " tasks have waited for ", absl::FormatDuration(now - since),
                      "; call WaitForSignal, or run the loop that the runtime joined");
}

}  // namespace runloop::internal

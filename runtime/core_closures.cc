// Closures that nobody waits for, in RuntimeCore: posted, run several at a time, abandoned.

#include <algorithm>
#include <utility>

#include "runloop/runtime/core.h"

namespace runloop::internal {

ClosureNode* RuntimeCore::TakeClosureNode() {
  return stopped() ? nullptr : lifecycle_.closures().Take();
}

absl::Status RuntimeCore::WhyClosureRefused() {
  if (!stopped()) return lifecycle_.RefuseClosure();
  lifecycle_.Refuse();
  return StoppedError();
}

absl::Status RuntimeCore::PostClosure(ClosureNode* node) {
  if (queue_.Push(node)) {
    WakeLoop();
    return absl::OkStatus();
  }
  node->Drop();
  lifecycle_.closures().GiveBack(node);
  lifecycle_.Refuse();
  return StoppedError();
}

int RuntimeCore::RunClosures(absl::Time& now, absl::Time until, int before_in_slice, int most) {
  // The clock costs as much as a small closure: it is looked at after each, but for a flood of
  // those that take next to no time.
  constexpr int kFlood = 32;
  constexpr int kMostUnlooked = 16;
  constexpr absl::Duration kNextToNothing = absl::Microseconds(1);
  ClosurePool& pool = lifecycle_.closures();
  const bool flood = before_in_slice >= kFlood;
  int ran = 0, unlooked = 0, look_after = flood ? look_after_ : 1;
  ++depth_;
  closures_since_.store(absl::ToUnixNanos(now), std::memory_order_relaxed);
  // A slice runs one thing at least, however late it is: it goes on until it has.
  while (closures_ != nullptr && (before_in_slice + ran == 0 || (ran < most && now < until))) {
    ClosureNode* const closure = std::exchange(closures_, TaskQueue::NextOf(*closures_));
    const CallSite call_site = closure->call_site();
    closure_call_site_.store(call_site, std::memory_order_release);
    pool.Run(*closure, *this);
    ++ran;
    if (stopped()) break;
    if (queue_.others_have_posts()) queue_.Intake(now);
    const bool urgent = queue_.urgent();
    if (++unlooked < look_after && closures_ != nullptr && ran < most && !urgent) continue;
    const absl::Time before = std::exchange(now, clock_->Now());
    if (slow_log_.IsSlowRun(now - before)) [[unlikely]] {
      NoteSlowClosures(call_site, unlooked, now - before, now);
    }
    const absl::Duration each = (now - before) / unlooked;
    lifecycle_.NoteRunTime(each);
    look_after = flood && each < kNextToNothing ? std::min(2 * look_after, kMostUnlooked) : 1;
    look_after_ = look_after;
    unlooked = 0;
    closures_since_.store(absl::ToUnixNanos(now), std::memory_order_relaxed);
    (void)ServeIntake(now);
    if (urgent || timers_.IsDue(now)) break;
  }
  closures_since_.store(kNone, std::memory_order_relaxed);
  --depth_;
  return ran;
}

void RuntimeCore::AbandonClosures() {
  for (ClosureNode* closures :
       {std::exchange(closures_, nullptr), queue_.TakeClosures(clock_->Now())}) {
    while (closures != nullptr) {
      ClosureNode* const closure = std::exchange(closures, TaskQueue::NextOf(*closures));
      lifecycle_.closures().Abandon(*closure);
    }
  }
}

}  // namespace runloop::internal

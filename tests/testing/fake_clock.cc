#include "runloop/tests/testing/fake_clock.h"

#include <algorithm>

namespace runloop {

absl::Time FakeClock::Now() const {
  absl::MutexLock lock(&mutex_);
  return now_;
}

void FakeClock::WaitUntil(absl::Mutex* mutex, absl::CondVar* changed, absl::Time deadline) {
  Waiter waiter{mutex, changed, deadline};
  {
    absl::MutexLock lock(&mutex_);
    if (now_ >= deadline) return;
    waiters_.push_back(&waiter);
    waiters_changed_.SignalAll();
  }
  // Advance may signal between here and the wait; it takes `mutex` first, which this thread still
  // holds.
  changed->Wait(mutex);
  absl::MutexLock lock(&mutex_);
  std::erase(waiters_, &waiter);
}

void FakeClock::Advance(absl::Duration by) {
  std::vector<Waiter> due;
  {
    absl::MutexLock lock(&mutex_);
    now_ += by;
    for (const Waiter* waiter : waiters_) {
      if (waiter->deadline <= now_) due.push_back(*waiter);
    }
  }
  for (const Waiter& waiter : due) {
    absl::MutexLock lock(waiter.mutex);
    waiter.changed->SignalAll();
  }
}

void FakeClock::AwaitWaiter(absl::Duration within) {
  absl::MutexLock lock(&mutex_);
  for (;;) {
    for (const Waiter* waiter : waiters_) {
      if (waiter->deadline <= now_ + within) return;
    }
    waiters_changed_.Wait(&mutex_);
  }
}

}  // namespace runloop

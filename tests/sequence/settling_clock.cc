#include "runloop/tests/sequence/settling_clock.h"

namespace runloop::sequence {

void SettlingClock::WaitUntil(absl::Mutex* mutex, absl::CondVar* changed, absl::Time deadline) {
  {
    absl::MutexLock lock(&mutex_);
    ++waits_;
    waiter_ = {mutex, changed, deadline};
    waits_changed_.SignalAll();
  }
  fake_.WaitUntil(mutex, changed, deadline);
  absl::MutexLock lock(&mutex_);
  waiter_.reset();
}

void SettlingClock::Advance(absl::Duration by) {
  fake_.Advance(by);
  // A wait that had begun before may have overlooked what was handed over just then: only one that
  // begins from now on has seen all.
  const uint64_t poked = Poke();
  const absl::Time now = Now();
  absl::MutexLock lock(&mutex_);
  while (waits_ <= poked || !waiter_.has_value() || waiter_->deadline <= now) {
    waits_changed_.Wait(&mutex_);
  }
}

uint64_t SettlingClock::Poke() {
  for (;;) {
    absl::Mutex* its_mutex;
    {
      absl::MutexLock lock(&mutex_);
      while (!waiter_.has_value()) waits_changed_.Wait(&mutex_);
      its_mutex = waiter_->mutex;
    }
    absl::MutexLock its_lock(its_mutex);
    absl::MutexLock lock(&mutex_);
    if (!waiter_.has_value()) continue;  // it woke by itself
    waiter_->changed->SignalAll();
    return waits_;
  }
}

}  // namespace runloop::sequence

#ifndef RUNLOOP_TESTS_SEQUENCE_SETTLING_CLOCK_H_
#define RUNLOOP_TESTS_SEQUENCE_SETTLING_CLOCK_H_

#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/clock.h"
#include "runloop/tests/testing/fake_clock.h"

namespace runloop::sequence {

// A fake clock of one runtime, whose service thread is the one that waits on it. After Advance
// returns, that thread has done all that is due, and waits for what is not: what it did is known,
// and nothing is left to chance.
class SettlingClock final : public Clock {
 public:
  absl::Time Now() const override { return fake_.Now(); }
  void WaitUntil(absl::Mutex* mutex, absl::CondVar* changed, absl::Time deadline) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // The runtime has not stopped. Not on the service thread, nor with its lock.
  void Advance(absl::Duration by);

 private:
  struct Waiter {
    absl::Mutex* mutex;
    absl::CondVar* changed;
    absl::Time deadline;
  };

  // Wakes the service thread from a wait; returns the number of that wait.
  uint64_t Poke();

  FakeClock fake_;
  absl::Mutex mutex_;
  absl::CondVar waits_changed_;
  uint64_t waits_ ABSL_GUARDED_BY(mutex_) = 0;  // that have begun
  std::optional<Waiter> waiter_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_SETTLING_CLOCK_H_

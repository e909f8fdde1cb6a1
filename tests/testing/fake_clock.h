#ifndef RUNLOOP_TESTS_TESTING_FAKE_CLOCK_H_
#define RUNLOOP_TESTS_TESTING_FAKE_CLOCK_H_

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/clock.h"

namespace runloop {

// A clock that stands still until the test advances it. Thread-safe.
class FakeClock final : public Clock {
 public:
  absl::Time Now() const override;
  void WaitUntil(absl::Mutex* mutex, absl::CondVar* changed, absl::Time deadline) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Moves the time and wakes all waits whose deadline has come.
  void Advance(absl::Duration by);

  // Blocks until some thread waits for a deadline of Now() + `within` or earlier: its timer is set.
  void AwaitWaiter(absl::Duration within);

 private:
  struct Waiter {
    absl::Mutex* mutex;
    absl::CondVar* changed;
    absl::Time deadline;
  };

  mutable absl::Mutex mutex_;
  absl::CondVar waiters_changed_;
  absl::Time now_ ABSL_GUARDED_BY(mutex_) = absl::UnixEpoch() + absl::Hours(1);
  std::vector<Waiter*> waiters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop

#endif  // RUNLOOP_TESTS_TESTING_FAKE_CLOCK_H_

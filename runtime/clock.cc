#include "runloop/runtime/clock.h"

#include <chrono>

namespace runloop {
namespace {

class MonotonicClock final : public Clock {
 public:
  absl::Time Now() const override {
    return absl::UnixEpoch() +
           absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  }

  void WaitUntil(absl::Mutex* mutex, absl::CondVar* changed, absl::Time deadline) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    // absl::CondVar measures deadlines by the time of day, which may be set: wait for a span
    // instead.
    changed->WaitWithTimeout(
        mutex, deadline == absl::InfiniteFuture() ? absl::InfiniteDuration() : deadline - Now());
  }
};

}  // namespace

Clock* Clock::Monotonic() {
  static MonotonicClock clock;
  return &clock;
}

}  // namespace runloop

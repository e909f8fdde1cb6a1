#include "runloop/runtime/mutex.h"

#include <algorithm>
#include <chrono>

namespace runloop::internal {
namespace {

// A longer one would pass what the clock can say.
constexpr absl::Duration kLongest = absl::Hours(24 * 365 * 100);

std::chrono::nanoseconds ToChrono(absl::Duration timeout) {
  return absl::ToChronoNanoseconds(std::clamp(timeout, absl::ZeroDuration(), kLongest));
}

}  // namespace

struct Mutex::Awaiting {
  const Condition condition;
  Awaiting* next;
  std::condition_variable wake;
};

void Mutex::WakeAwaiting() {
  for (Awaiting* each = awaiting_; each != nullptr; each = each->next) {
    if (each->condition()) each->wake.notify_one();
  }
}

bool Mutex::AwaitWithTimeout(Condition condition, absl::Duration timeout) {
  if (condition()) return true;
  WakeAwaiting();  // what this thread has done may be what others wait for
  Awaiting self{.condition = condition, .next = awaiting_, .wake = {}};
  awaiting_ = &self;
  std::unique_lock lock(mutex_, std::adopt_lock);
  const bool holds = self.wake.wait_for(lock, ToChrono(timeout), condition);
  (void)lock.release();
  Awaiting** at = &awaiting_;
  while (*at != &self) at = &(*at)->next;
  *at = self.next;
  return holds;
}

void CondVar::WaitWithTimeout(Mutex* mutex, absl::Duration timeout) {
  mutex->WakeAwaiting();
  std::unique_lock lock(mutex->mutex_, std::adopt_lock);
  changed_.wait_for(lock, ToChrono(timeout));
  (void)lock.release();
}

}  // namespace runloop::internal

#ifndef RUNLOOP_RUNTIME_CLOCK_H_
#define RUNLOOP_RUNTIME_CLOCK_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace runloop {

// Where the runtime reads the time and waits for it; a test puts a FakeClock in its place. Safe
// from any thread.
class Clock {
 public:
  virtual ~Clock() = default;

  // Never goes back, and is not the time of day: only differences mean anything.
  virtual absl::Time Now() const = 0;

  // Waits until `changed` is signalled or Now() reaches `deadline`, and may return early: call it
  // in a loop that tests its own condition.
  virtual void WaitUntil(absl::Mutex* mutex, absl::CondVar* changed, absl::Time deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) = 0;

  // CLOCK_MONOTONIC. Lives for the whole process.
  static Clock* Monotonic();
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_CLOCK_H_

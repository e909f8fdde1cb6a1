#ifndef RUNLOOP_RUNTIME_TIMER_FD_H_
#define RUNLOOP_RUNTIME_TIMER_FD_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop {

// A timerfd of CLOCK_MONOTONIC that is non-blocking and closed on exec: what wakes a loop at a
// time. Safe from any thread.
class TimerFd {
 public:
  // If the kernel gives no descriptor, status() says so and the other methods do nothing.
  TimerFd();
  TimerFd(const TimerFd&) = delete;
  TimerFd& operator=(const TimerFd&) = delete;

  absl::Status status() const;
  // Readable from the time that was set to the next Set or Clear.
  int fd() const { return fd_.get(); }

  // `at` of Clock::Monotonic(), at once if that has passed; InfiniteFuture: at no time.
  absl::Status Set(absl::Time at) const;
  void Clear() const;

 private:
  const UniqueFd fd_;
  const int error_;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_TIMER_FD_H_

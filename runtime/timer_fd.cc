#include "runloop/runtime/timer_fd.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

namespace runloop {

TimerFd::TimerFd()
    : fd_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)),
      error_(fd_.get() < 0 ? errno : 0) {}

absl::Status TimerFd::status() const {
  return error_ == 0 ? absl::OkStatus()
                     : absl::ErrnoToStatus(error_, "no timerfd to wake the loop");
}

absl::Status TimerFd::Set(absl::Time at) const {
  itimerspec timer{};
  if (at != absl::InfiniteFuture()) {
    // All zero would mean never.
    const absl::Duration since_boot =
        std::max(absl::Ceil(at - absl::UnixEpoch(), absl::Nanoseconds(1)), absl::Nanoseconds(1));
    timer.it_value = absl::ToTimespec(since_boot);
  }
  if (timerfd_settime(fd_.get(), TFD_TIMER_ABSTIME, &timer, nullptr) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "timerfd_settime");
}

void TimerFd::Clear() const {
  uint64_t count;
  [[maybe_unused]] const ssize_t got = read(fd_.get(), &count, sizeof count);
}

}  // namespace runloop

#include "runloop/daemon/exit_watchdog.h"

#include <algorithm>
#include <utility>

#include "runloop/runtime/clock.h"

namespace runloop::daemon {

ExitWatchdog::ExitWatchdog(std::function<absl::Duration()> expired)
    : expired_(std::move(expired)), thread_([this] { Serve(); }) {}

ExitWatchdog::~ExitWatchdog() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
    changed_.Signal();
  }
  thread_.join();
}

void ExitWatchdog::Arm(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  deadline_ = std::min(deadline_, Clock::Monotonic()->Now() + timeout);
  changed_.Signal();
}

void ExitWatchdog::Serve() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      while (!stop_ && Clock::Monotonic()->Now() < deadline_) {
        Clock::Monotonic()->WaitUntil(&mutex_, &changed_, deadline_);
      }
      if (stop_) return;
      deadline_ = absl::InfiniteFuture();
    }
    Arm(expired_());
  }
}

}  // namespace runloop::daemon

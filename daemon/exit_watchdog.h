#ifndef RUNLOOP_DAEMON_EXIT_WATCHDOG_H_
#define RUNLOOP_DAEMON_EXIT_WATCHDOG_H_

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace runloop::daemon {

// Ends something that should have ended by itself: calls `expired` on a thread of its own if Arm's
// time passes before this object is destroyed, and again after the time that it returns. Any thread
// may arm it; of several times the first to come counts. Destroying it waits for a call that is
// running.
class ExitWatchdog {
 public:
  explicit ExitWatchdog(std::function<absl::Duration()> expired);
  ~ExitWatchdog();
  ExitWatchdog(const ExitWatchdog&) = delete;
  ExitWatchdog& operator=(const ExitWatchdog&) = delete;

  void Arm(absl::Duration timeout);

 private:
  void Serve();

  const std::function<absl::Duration()> expired_;

  absl::Mutex mutex_;
  absl::CondVar changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();  // Clock::Monotonic

  std::thread thread_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_EXIT_WATCHDOG_H_

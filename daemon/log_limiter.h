#ifndef RUNLOOP_DAEMON_LOG_LIMITER_H_
#define RUNLOOP_DAEMON_LOG_LIMITER_H_

#include <cstdint>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/log.h"

namespace runloop::daemon {

// Logs what peers cause, at a rate that no peer can raise: five lines in ten seconds, and then how
// many were left out. Any thread.
class LogLimiter {
 public:
  explicit LogLimiter(LogSink log) : log_(std::move(log)) {}

  void Warn(std::string_view line);

 private:
  const LogSink log_;

  absl::Mutex mutex_;
  absl::Time window_start_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int lines_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t left_out_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_LOG_LIMITER_H_

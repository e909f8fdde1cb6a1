#include "runloop/daemon/log_limiter.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/clock.h"

namespace runloop::daemon {
namespace {

constexpr int kLines = 5;
constexpr absl::Duration kWindow = absl::Seconds(10);

}  // namespace

void LogLimiter::Warn(std::string_view line) {
  std::string text(line);
  {
    absl::MutexLock lock(&mutex_);
    const absl::Time now = Clock::Monotonic()->Now();
    if (now - window_start_ >= kWindow) {
      window_start_ = now;
      lines_ = 0;
    }
    if (lines_ >= kLines) {
      ++left_out_;
      return;
    }
    ++lines_;
    if (left_out_ > 0) absl::StrAppend(&text, " (", left_out_, " such lines were left out)");
    left_out_ = 0;
  }
  log_(LogSeverity::kWarning, text);
}

}  // namespace runloop::daemon

#include "runloop/daemon/log_queue.h"

#include <cstdint>
#include <deque>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace runloop::daemon {
namespace {

constexpr size_t kMaxLines = 256;
constexpr absl::Duration kLongestFlush = absl::Seconds(1);

}  // namespace

struct LogQueue::State {
  explicit State(LogSink log) : sink(std::move(log)) {}

  bool idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return lines.empty() && !writing; }
  bool has_work() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return stop || !lines.empty(); }

  const LogSink sink;
  absl::Mutex mutex;
  std::deque<std::pair<LogSeverity, std::string>> lines ABSL_GUARDED_BY(mutex);
  uint64_t dropped ABSL_GUARDED_BY(mutex) = 0;  // since the last line that was kept
  bool writing ABSL_GUARDED_BY(mutex) = false;
  bool stop ABSL_GUARDED_BY(mutex) = false;
};

LogQueue::LogQueue(LogSink sink)
    : state_(std::make_shared<State>(std::move(sink))),
      thread_([state = state_] { Run(*state); }) {}

LogQueue::~LogQueue() {
  Flush();
  bool idle;
  {
    absl::MutexLock lock(&state_->mutex);
    state_->stop = true;
    state_->lines.clear();
    idle = state_->idle();
  }
  if (idle) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

void LogQueue::Write(LogSeverity severity, std::string_view line) {
  std::string text(line);
  absl::MutexLock lock(&state_->mutex);
  if (state_->lines.size() >= kMaxLines) {
    ++state_->dropped;
    return;
  }
  if (const uint64_t dropped = std::exchange(state_->dropped, 0); dropped > 0) {
    absl::StrAppend(&text, " (", dropped, " lines before it were dropped: the log took none)");
  }
  state_->lines.emplace_back(severity, std::move(text));
}

void LogQueue::Flush() {
  absl::MutexLock lock(&state_->mutex);
  state_->mutex.AwaitWithTimeout(absl::Condition(state_.get(), &State::idle), kLongestFlush);
}

void LogQueue::Run(State& state) {
  std::pair<LogSeverity, std::string> line;
  while (true) {
    {
      absl::MutexLock lock(&state.mutex);
      state.writing = false;
      state.mutex.Await(absl::Condition(&state, &State::has_work));
      if (state.lines.empty()) return;
      line = std::move(state.lines.front());
      state.lines.pop_front();
      state.writing = true;
    }
    state.sink(line.first, line.second);
  }
}

}  // namespace runloop::daemon

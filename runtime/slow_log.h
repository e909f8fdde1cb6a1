#ifndef RUNLOOP_RUNTIME_SLOW_LOG_H_
#define RUNLOOP_RUNTIME_SLOW_LOG_H_

#include <array>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace runloop {

// One operation or closure, for people: who handed it over, and its times.
struct InvocationStatus {
  std::string operation;    // or `(closure)`
  std::string session_id;   // empty, as the next three: the host's own
  std::string client_name;  // the worker's own words
  int32_t pid = 0;
  std::string role;
  std::string call_site;  // CallSite::ToString: empty if it is not known
  std::string trace_id;   // 32 digits; empty: it had no trace context
  // From admission to start, or so far; zero for closures, of which it is not measured.
  absl::Duration queue_wait;
  // Of the handler or closure on the runtime thread: what is spent deferred is not in it. As what
  // follows, of one that has ended.
  absl::Duration execution;
  absl::Time ended;  // by the runtime's clock

  // On one line.
  std::string ToString() const;
};

namespace internal {

// The slow-operation log: what is to be logged of what was slow, and the latest of it for status.
//
// One that runs for long makes all behind it wait for long, and a flood makes itself wait: so what
// ran slowly and what only waited are kept apart, each with its own share of lines and of room.
// Lines: five of each kind in ten seconds, and then how many were left out.
//
// Threads: the runtime thread adds, another one takes lines and writes them, any looks.
class SlowLog {
 public:
  static constexpr int kLines = 5;
  static constexpr absl::Duration kWindow = absl::Seconds(10);
  // That are kept for status, of each kind.
  static constexpr size_t kRecent = 16;

  // At least as long is slow; InfiniteDuration: nothing is.
  SlowLog(absl::Duration queue_wait, absl::Duration execution)
      : queue_wait_(queue_wait), execution_(execution) {}

  bool IsSlowWait(absl::Duration queue_wait) const { return queue_wait >= queue_wait_; }
  bool IsSlowRun(absl::Duration execution) const { return execution >= execution_; }

  // Counts one that was slow; asks for its description only if that is kept. True if there is
  // something to be taken earlier than there was.
  bool Add(absl::Duration execution, absl::Time now,
           absl::FunctionRef<InvocationStatus()> describe);

  // What is to be logged by now.
  std::vector<std::string> TakeLines(absl::Time now);
  // When there will be something to take; InfiniteFuture: nothing, as far as is known.
  absl::Time next_due() const;

  // How many were slow.
  uint64_t count() const;
  // The latest that ran slowly, then of those that only waited; newest first.
  std::vector<InvocationStatus> Recent() const;

 private:
  enum Kind { kRan, kWaited, kKinds };
  struct Share {
    absl::Time window_end = absl::InfinitePast();
    int lines = 0;
    uint64_t left_out = 0;
    std::deque<InvocationStatus> recent;  // oldest first
  };

  // Says what a window that is over has left out.
  void EndWindow(Kind kind, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const absl::Duration queue_wait_;
  const absl::Duration execution_;

  mutable absl::Mutex mutex_;
  std::array<Share, kKinds> shares_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);  // to be taken
  uint64_t count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace internal
}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_SLOW_LOG_H_

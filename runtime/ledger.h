#ifndef RUNLOOP_RUNTIME_LEDGER_H_
#define RUNLOOP_RUNTIME_LEDGER_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "runloop/runtime/split_count.h"

namespace runloop {

// How an invocation can end. All but the first two mean that it never started.
enum class OutcomeKind { kSucceeded, kFailed, kCancelled, kExpired, kSuperseded, kAbandoned };

// Where every admitted invocation is counted in exactly one place. Any thread, but what is said to
// be the runtime thread's.
//
// What counts is only ever counted up, by the runtime thread alone or by whoever, apart from each
// other; the places are differences. Others than the runtime thread count sequentially
// consistently, and so does the runtime thread's announcement that it sleeps: of the last one to
// end and the one who waits for that, one sees the other.
class Ledger {
 public:
  struct Counts {
    uint64_t admitted = 0;
    uint64_t succeeded = 0, failed = 0, cancelled = 0, expired = 0, superseded = 0, abandoned = 0;
    uint64_t delayed = 0, queued = 0, running = 0, deferred = 0;
    // Not part of the sum:
    uint64_t refused = 0;   // never admitted
    uint64_t given_up = 0;  // callers that stopped waiting for one that had started

    uint64_t ended() const {
      return succeeded + failed + cancelled + expired + superseded + abandoned;
    }
    // One line for logs.
    std::string ToString() const;
  };

  // -> queued
  void Admit(int64_t count) { admitted_.fetch_add(static_cast<uint64_t>(count)); }
  // queued -> delayed, at once after Admit; and back, when it is due or ends before that.
  void Delay() { delayed_.fetch_add(1); }
  void Undelay() { undelayed_.fetch_add(1); }
  // Takes Admit back, for one that the queue turned out not to take.
  void Unadmit() { admitted_.fetch_sub(1); }
  void Refuse() { refused_.fetch_add(1); }
  void GiveUp() { given_up_.fetch_add(1); }
  // queued -> running. The runtime thread.
  void Start();
  // running -> deferred, and back for one that has ended meanwhile. The runtime thread.
  void Defer();
  void Undefer();
  // running or deferred -> ended
  void Finish(OutcomeKind kind, bool was_deferred, bool on_runtime_thread);
  // queued -> ended
  void EndQueued(OutcomeKind kind);

  // `admitted` is the sum of the places. Exact whenever no invocation is moving between two places.
  Counts counts() const;
  // Neither queued nor running nor deferred. Not true while one of these is counted elsewhere.
  bool idle() const;
  // Delayed, queued, running or deferred.
  int64_t unfinished() const;

 private:
  uint64_t ended() const;

  std::atomic<uint64_t> admitted_{0};
  // The runtime thread writes these all the time, apart from what others write.
  alignas(64) std::atomic<uint64_t> started_{0};
  std::atomic<uint64_t> deferred_{0};
  SplitCount succeeded_, failed_;
  SplitCount ended_deferred_;                            // of those two
  alignas(64) std::atomic<uint64_t> unstarted_[4] = {};  // cancelled and what follows
  std::atomic<uint64_t> refused_{0}, given_up_{0};
  std::atomic<uint64_t> delayed_{0}, undelayed_{0};
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_LEDGER_H_

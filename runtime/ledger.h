#ifndef RUNLOOP_RUNTIME_LEDGER_H_
#define RUNLOOP_RUNTIME_LEDGER_H_

#include <atomic>
#include <cstdint>
#include <string>

namespace runloop {

// How an invocation can end. All but the first two mean that it never started.
enum class OutcomeKind { kSucceeded, kFailed, kCancelled, kExpired, kSuperseded, kAbandoned };

// Where every admitted invocation is counted in exactly one place. Any thread. Sequentially
// consistent, so that of the last one to end and the one who waits for that, one sees the other.
class Ledger {
 public:
  struct Counts {
    uint64_t admitted = 0;
    uint64_t succeeded = 0, failed = 0, cancelled = 0, expired = 0, superseded = 0, abandoned = 0;
    uint64_t queued = 0, running = 0, deferred = 0;
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
  void Admit() { queued_.fetch_add(1); }
  // Takes Admit back, for one that the queue turned out not to take.
  void Unadmit() { queued_.fetch_sub(1); }
  void Refuse() { refused_.fetch_add(1); }
  void GiveUp() { given_up_.fetch_add(1); }
  // queued -> running
  void Start();
  // running -> deferred, and back for one that has ended meanwhile
  void Defer();
  void Undefer();
  // running or deferred -> ended
  void Finish(OutcomeKind kind, bool was_deferred);
  // queued -> ended
  void EndQueued(OutcomeKind kind);

  // `admitted` is the sum of the places. Exact whenever no invocation is moving between two places.
  Counts counts() const;
  // Neither queued nor running nor deferred.
  bool idle() const { return queued_.load() == 0 && running_.load() == 0 && deferred_.load() == 0; }
  int64_t queued() const { return queued_.load(); }
  // Queued, running or deferred.
  int64_t unfinished() const { return queued_.load() + running_.load() + deferred_.load(); }

 private:
  std::atomic<uint64_t> ended_[6] = {};
  std::atomic<int64_t> queued_{0}, running_{0}, deferred_{0};
  std::atomic<uint64_t> refused_{0}, given_up_{0};
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_LEDGER_H_

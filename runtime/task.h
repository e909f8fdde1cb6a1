#ifndef RUNLOOP_RUNTIME_TASK_H_
#define RUNLOOP_RUNTIME_TASK_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "runloop/runtime/ledger.h"

namespace runloop {

class Operation;
class Session;

namespace internal {

// One invocation as the queue sees it: a link, a place in the order, and a state that decides once
// whether it runs.
//
// Ownership: whoever posts a task gives one reference to the queue; the queue gives it back with
// Release, on the runtime thread or, when it stops, on the thread that stops it. What the task
// captured is destroyed no later. Threads: the state changes on any thread; Run, Skip and Release
// as said there.
class Task {
 public:
  enum class State : uint8_t { kQueued, kStarted, kEndedUnstarted };

  Task() = default;
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  enum class RunResult {
    kSucceeded,
    kFailed,
    kCounted,   // ended, and counted by itself
    kDeferred,  // goes on, and will count itself
  };
  // Runs it. The runtime thread, after TryStart. Throws nothing.
  virtual RunResult Run() = 0;

  // Tells whoever waits that it never ran and why. After TryEnd, on the thread that won it.
  virtual void Skip(OutcomeKind kind) = 0;

  // The queue's reference ends. If the task ran, that is counted by now.
  virtual void Release() = 0;

  // False: it ended before, and must not run.
  bool TryStart() { return Leave(State::kStarted); }
  // From now on it never runs. False: it started or ended before.
  bool TryEnd() { return Leave(State::kEndedUnstarted); }

  // Set before posting, constant then. Null for a closure.
  const Operation* operation = nullptr;
  std::shared_ptr<Session> session;
  absl::Time deadline = absl::InfiniteFuture();
  absl::Time posted_at;   // of operations
  bool in_place = false;  // never queued

 protected:
  ~Task() = default;

 private:
  friend class PostList;
  friend class TaskQueue;

  bool Leave(State to) {
    State queued = State::kQueued;
    return state_.compare_exchange_strong(queued, to, std::memory_order_acq_rel);
  }

  std::atomic<State> state_{State::kQueued};
  Task* next_ = nullptr;    // the list that it is in
  uint64_t sequence_ = 0;   // guarded by the queue's intake lock
  absl::Time admitted_at_;  // likewise
};

}  // namespace internal
}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_TASK_H_

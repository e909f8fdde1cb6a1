#ifndef RUNLOOP_RUNTIME_TASK_H_
#define RUNLOOP_RUNTIME_TASK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runloop/runtime/call_site.h"
#include "runloop/runtime/priority.h"
#include "runloop/runtime/queue_item.h"
#include "runloop/runtime/trace_context.h"
#include "runloop/runtime/wait_chain.h"

namespace runloop {

class Operation;
class Session;

namespace internal {

class Lifecycle;
struct Lane;

// What the tasks of a batch share, which the queue keeps together. Any thread.
class TaskBatch {
 public:
  explicit TaskBatch(bool stops_at_failure) : stops_at_failure_(stops_at_failure) {}

  // The one in this place did not succeed. Lifecycle says so.
  void NoteFailure(uint32_t place) {
    uint32_t first = first_failed_.load();
    while (place < first && !first_failed_.compare_exchange_weak(first, place)) {
    }
  }
  // True if the one in this place is not to start, since one before it has failed.
  bool StopsBefore(uint32_t place) const {
    return stops_at_failure_ && first_failed_.load() < place;
  }

 private:
  const bool stops_at_failure_;
  std::atomic<uint32_t> first_failed_{std::numeric_limits<uint32_t>::max()};
};

// One invocation as the queue sees it, unless it is a closure that nobody waits for (ClosureNode):
// a place in the order, and a state. Lifecycle is what changes the state.
//
// Ownership: whoever posts a task gives one reference to the queue; who takes the task out of the
// queue gives it back with Release. What the task captured is destroyed no later. Threads: as said
// at each method.
class Task : public QueueItem {
 public:
  // Each state is left once, downwards; but a periodic timer begins anew after each run.
  enum class State : uint8_t { kDelayed, kQueued, kRunning, kDeferred, kEnded };

  enum class RunResult {
    kSucceeded,
    kFailed,
    kTold,  // an operation: it has ended or was deferred, and has said so itself
  };
  // Runs it. The runtime thread, once it is running. Throws nothing.
  virtual RunResult Run() = 0;

  // Tells whoever waits that it never ran and why. The thread that ended it unstarted. What an
  // operation's request holds is destroyed here; a closure is not, since it belongs to the runtime
  // thread.
  virtual void Skip(const absl::Status& why) = 0;

  // The queue's reference ends. Closures: the runtime thread, or, when it stops, the thread that
  // stops it. Operations: any thread. If the task ran, that is counted by now.
  virtual void Release() = 0;

  State state() const { return state_.load(); }

  // Asks the processor for what running it will read: it was written by another thread.
  void Prefetch() const {
    const char* const begin = reinterpret_cast<const char*>(this);
    for (size_t line = 1; line <= kPrefetched; ++line) __builtin_prefetch(begin + line * 64);
  }

 private:
  friend class Lifecycle;
  friend class TaskQueue;

  static constexpr size_t kPrefetched = 5;  // lines, of those of an operation

  // Where it is: in the line or in its lane. Guarded by the queue's lock.
  enum class Place : uint8_t { kNone, kLine, kLane };

  bool Leave(State from, State to) { return state_.compare_exchange_strong(from, to); }

  // Beside the links: what the queue writes.
  std::atomic<State> state_{State::kQueued};
  Place place_ = Place::kNone;
  absl::Time admitted_at_;  // guarded by the queue's lock

 public:
  // Set before posting, constant then. Null for a closure.
  const Operation* operation = nullptr;
  std::shared_ptr<Session> session;
  Lane* lane = nullptr;                    // null: this process's
  Priority priority = Priority::kDefault;  // the lane's
  std::shared_ptr<TaskBatch> batch;        // those that run in a row; null: none
  uint32_t place_in_batch = 0;
  absl::Time deadline = absl::InfiniteFuture();
  absl::Time posted_at;           // of operations
  size_t bytes = 0;               // what it counts for against the bounds
  const void* payload = nullptr;  // what it will read first
  CallSite call_site;             // of `session`, if a peer told it
  TraceParent trace_parent;       // null: none
  bool in_place = false;          // never queued
  bool is_cleanup = false;  // the runtime's own: neither counted nor bounded, and never dropped
  bool is_timer = false;    // a closure's (TimerTask): runs on in a drain

  // Who waits for it, if they are runtimes. Guarded by Waits once it is posted.
  std::unique_ptr<std::vector<Chain>> chains;

 protected:
  ~Task() = default;
};

}  // namespace internal
}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_TASK_H_

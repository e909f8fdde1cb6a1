#ifndef RUNLOOP_RUNTIME_WAIT_CHAIN_H_
#define RUNLOOP_RUNTIME_WAIT_CHAIN_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace runloop::internal {

class Task;

// One runtime that waits: its id, and what blocks its thread.
struct ChainLink {
  std::string runtime_id;
  std::string operation;
  // Which of the runtime's waits, counted from 1; 0 if that is not known.
  uint64_t wait = 0;

  bool operator==(const ChainLink&) const = default;
};

// Runtimes that wait for each other, each for the one after it and the last for the dispatch that
// carries the chain (D8). A peer's chain is a claim. One of a worker in a role is used only to
// refuse that worker's own dispatch; those of others, who have this process's uid, are passed on.
using Chain = std::vector<ChainLink>;

// No peer takes longer chains, nor longer names of operations.
inline constexpr size_t kMaxChainLinks = 64;
inline constexpr size_t kMaxChainBytes = 8192;
inline constexpr size_t kMaxLinkOperation = 512;

// `chain` and `last` behind it; `last` alone where both are too long, so that those that wait
// directly are known at least.
Chain Longer(const Chain& chain, ChainLink last);

// FAILED_PRECONDITION (DEADLOCK): `operation` of `runtime_id`, which is in `chain`, would wait for
// itself.
absl::Status DeadlockError(const Chain& chain, std::string_view runtime_id,
                           std::string_view operation);

// What a runtime knows of waiting: who waits for its tasks, and what its thread waits for itself. A
// runtime whose thread waits passes on each chain that comes to wait behind it, so that a cycle is
// found by whoever closes it, in whatever order its waits began (edge chasing, as in the algorithm
// of Chandy, Misra and Haas). Any thread.
class Waits {
 public:
  // Passes a chain on to where the thread waits. Called without locks, on any thread, also a little
  // after the wait has ended; must not block.
  using Forward = std::function<void(Chain)>;

  // The thread begins to wait for `for_what`.
  void Begin(std::string for_what, std::shared_ptr<Forward> forward);
  void End();

  // What the thread waits for; empty if it does not.
  std::string for_what() const;

  // The number of the wait that goes on, or of the next. The runtime thread.
  uint64_t number() const;
  // True if the wait with this number has not ended.
  bool MayBeIn(uint64_t number) const;

  // `chain` waits for `task`; to be called before the task is posted or while it is known to live.
  void Add(Task& task, Chain chain);
  // Appends those that wait for `task` to `chains`.
  void Collect(const Task& task, std::vector<Chain>& chains) const;

  // Null if the thread does not wait.
  std::shared_ptr<Forward> forward() const;

 private:
  // Further chains of one task add nothing: it is known to be waited for.
  static constexpr size_t kMaxChains = 4;

  mutable absl::Mutex mutex_;  // guards Task::chains too
  std::string for_what_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Forward> forward_ ABSL_GUARDED_BY(mutex_);
  uint64_t begun_ ABSL_GUARDED_BY(mutex_) = 0;  // waits so far
};

// True on the runtime thread of any runtime.
bool OnARuntimeThread();

// Who waits for what this thread would wait for now, itself last: empty on a thread that is no
// runtime thread.
Chain CurrentChain();

// While it lives, the runtime of this thread, if it has one, is known to wait for `for_what`, and
// what comes to wait behind it is passed on: whoever blocks on another runtime declares it so.
class WaitScope {
 public:
  WaitScope(std::string for_what, Waits::Forward forward);
  ~WaitScope();
  WaitScope(const WaitScope&) = delete;
  WaitScope& operator=(const WaitScope&) = delete;

 private:
  bool waits_ = false;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_WAIT_CHAIN_H_

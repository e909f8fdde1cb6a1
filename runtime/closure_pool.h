#ifndef RUNLOOP_RUNTIME_CLOSURE_POOL_H_
#define RUNLOOP_RUNTIME_CLOSURE_POOL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "runloop/runtime/closure_node.h"

namespace runloop::internal {

// The closures that are posted to one runtime and that nobody waits for: their nodes, which go
// round between the threads that post and the runtime thread, and how many there are of them.
//
// Each thread that posts has a Producer in each pool. It fills the nodes of a slab of its own one
// after the other; a slab whose closures have all run goes back to be filled again. So a post
// touches no line of memory that other threads write but the post list's. The producer's counter
// has one writer, as have those of the runtime thread: what there is in all is their sum.
//
// Bound: a producer looks whether there is room once in `credit` posts, so the bound may be passed
// by as many for each thread that posts (D4); with a credit of 1 the bound is exact.
//
// Shared by the runtime and the threads that have posted to it.
class ClosurePool : public std::enable_shared_from_this<ClosurePool> {
 public:
  static constexpr int kCredit = 64;

  // `room` says how many more closures may be posted now; any thread. `credit` is at most kCredit.
  ClosurePool(std::function<int64_t()> room, int credit);
  ~ClosurePool();

  // A node to fill and post, counted as posted; null if there is no room. Any thread.
  ClosureNode* Take();
  // Takes that back: it was not posted. The thread that took it, before it takes another.
  void GiveBack(ClosureNode* node);

  // Runs or drops one that was posted, counts it, and takes the node back. The runtime thread.
  void Run(ClosureNode& node, RuntimeCore& core);
  void Abandon(ClosureNode& node);

  struct Counts {
    uint64_t posted = 0;  // those below included
    uint64_t started = 0, succeeded = 0, failed = 0, abandoned = 0;

    uint64_t ended() const { return succeeded + failed + abandoned; }
  };
  // Exact, at some cost. Any thread.
  Counts counts() const;
  // How many have not ended: exact with a credit of 1, at some cost; else cheap, and off by the
  // credit for each producer at most. Any thread.
  int64_t unfinished() const;
  // How many have started, as the runtime thread counts them.
  const std::atomic<uint64_t>& started() const { return started_; }

  // Gives back memory that a flood has left. Any thread.
  void Trim();
  // The runtime is gone: threads may forget the pool.
  void Close() { closed_.store(true, std::memory_order_release); }

 private:
  struct Producer;
  struct Slab;
  class Producers;

  // The calling thread's producer; null while the thread's own storage is being destroyed.
  Producer* OfThisThread();
  ClosureNode* TakeFor(Producer& producer);
  bool GetCredit(Producer& producer);
  // A slab with room.
  Slab* GetSlab();
  void Recycle(ClosureNode& node);
  void Enter(Producer& producer);
  void Leave(Producer& producer);

  const std::function<int64_t()> room_;
  const int credit_;
  std::atomic<bool> closed_{false};

  // Written by producers once in `credit` posts.
  alignas(64) std::atomic<int64_t> posted_about_{0};

  // Written by the runtime thread alone.
  alignas(64) std::atomic<uint64_t> started_{0};
  std::atomic<uint64_t> succeeded_{0}, failed_{0}, abandoned_{0};

  alignas(64) mutable absl::Mutex mutex_;
  std::vector<Producer*> producers_ ABSL_GUARDED_BY(mutex_);
  uint64_t posted_by_gone_ ABSL_GUARDED_BY(mutex_) = 0;  // threads that have ended
  // To be filled again: those that threads left partly filled, and empty ones.
  std::vector<Slab*> partly_filled_ ABSL_GUARDED_BY(mutex_);
  std::vector<Slab*> empty_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_CLOSURE_POOL_H_

#ifndef RUNLOOP_RUNTIME_BOUNDS_H_
#define RUNLOOP_RUNTIME_BOUNDS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "runloop/runtime/split_count.h"

namespace runloop {

// How much unfinished work there may be: invocations that were admitted and have not ended. What
// does not fit is refused at once with RESOURCE_EXHAUSTED (QUEUE_FULL; MESSAGE_TOO_LARGE for a
// request that can never fit); nothing waits. May be passed by a few where several threads dispatch
// at the same moment, and where all may have 4096 items or more, by up to 64 closures for each
// thread that posts them.
struct Bound {
  int64_t items = 0;
  // Of requests from other processes, serialized; one that would take more than four times as much
  // in memory counts with a quarter of that. What is of this process counts as items alone.
  int64_t bytes = 0;
};

// Sessions of one role, or of one uid, that are open or whose objects are still to be closed. One
// more is refused with RESOURCE_EXHAUSTED (QUEUE_FULL).
inline constexpr int64_t kMaxRoleSessions = 1024;
inline constexpr int64_t kMaxUserSessions = 10'000;

// Nobody alone can take all the room: a user's share is half of it, a session's less.
struct WorkBounds {
  // All together.
  Bound total{.items = 1'000'000, .bytes = int64_t{512} << 20};
  // All sessions of one uid or, for workers in a role, of that role.
  Bound user{.items = 500'000, .bytes = int64_t{256} << 20};
  // One session of another process. Sessions of this process are bounded by `total` alone.
  Bound session{.items = 100'000, .bytes = int64_t{128} << 20};
};

// How many buffers (buffer.h) there may be, and of how many bytes; file descriptors that a worker
// has sent and no operation has taken count as buffers without bytes. What operations hold counts
// until they let go of it. One more is refused with RESOURCE_EXHAUSTED (BUFFERS_FULL). The kernel
// takes memory only as it is written to.
struct BufferBounds {
  // All together.
  Bound total{.items = 8192, .bytes = int64_t{4} << 30};
  // All sessions of one uid or, for workers in a role, of that role.
  Bound user{.items = 4096, .bytes = int64_t{2} << 30};
  // One session of another process. Sessions of this process are bounded by `total` alone.
  Bound session{.items = 256, .bytes = int64_t{1} << 30};
};

// What may wait for one subscriber (topic.h) that does not take it; what comes on top drops the
// oldest.
struct NotificationBounds {
  size_t items = 256;
  size_t bytes = size_t{1} << 20;  // of messages, serialized
};

// A bound and how much of it is held, for status.
struct BoundStatus {
  std::string holder;  // `runtime`, `uid 1000`, `role camera`
  Bound held;
  Bound bound;
};

namespace internal {

// What one holder of unfinished work has. Any thread.
class Account {
 public:
  Account(std::string holder, const Bound& bound) : holder_(std::move(holder)), bound_(bound) {}

  const std::string& holder() const { return holder_; }
  const Bound& bound() const { return bound_; }
  Bound held() const {
    // What was let go of had been added before.
    const auto items = static_cast<int64_t>(items_gone_.load());
    const auto bytes = static_cast<int64_t>(bytes_gone_.load());
    return {.items = static_cast<int64_t>(items_.load()) - items,
            .bytes = static_cast<int64_t>(bytes_.load()) - bytes};
  }

  bool Fits(int64_t items, int64_t bytes) const {
    const Bound now = held();
    return now.items + items <= bound_.items && now.bytes + bytes <= bound_.bytes;
  }
  void Add(int64_t items, int64_t bytes, bool on_runtime_thread = false) {
    items_.Add(static_cast<uint64_t>(items), on_runtime_thread);
    bytes_.Add(static_cast<uint64_t>(bytes), on_runtime_thread);
  }
  void Remove(int64_t items, int64_t bytes, bool on_runtime_thread) {
    items_gone_.Add(static_cast<uint64_t>(items), on_runtime_thread);
    bytes_gone_.Add(static_cast<uint64_t>(bytes), on_runtime_thread);
  }

  // Bytes of outcomes that transports hold for their workers: what ends is not held back by the
  // bound, which is of what has not.
  int64_t outcome_bytes() const { return outcome_bytes_.load(std::memory_order_relaxed); }
  void AddOutcomes(int64_t bytes) { outcome_bytes_.fetch_add(bytes, std::memory_order_relaxed); }

  // Sessions that the runtime keeps.
  int64_t sessions() const { return sessions_.load(); }
  void AddSession(int64_t change) { sessions_.fetch_add(change); }

 private:
  const std::string holder_;
  const Bound bound_;
  std::atomic<int64_t> sessions_{0}, outcome_bytes_{0};
  SplitCount items_, bytes_;
  alignas(64) SplitCount items_gone_, bytes_gone_;  // mostly written by another thread than those
};

}  // namespace internal
}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_BOUNDS_H_

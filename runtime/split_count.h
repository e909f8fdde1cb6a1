#ifndef RUNLOOP_RUNTIME_SPLIT_COUNT_H_
#define RUNLOOP_RUNTIME_SPLIT_COUNT_H_

#include <atomic>
#include <cstdint>

namespace runloop {

// A count with one writer that is on the way of every invocation, the runtime thread, which so
// needs no locked instruction; others may add to it, too. Any thread reads.
class SplitCount {
 public:
  // `by_owner`: on the runtime thread.
  void Add(uint64_t count, bool by_owner) {
    if (by_owner) {
      own_.store(own_.load(std::memory_order_relaxed) + count, std::memory_order_release);
    } else {
      others_.fetch_add(count);
    }
  }
  // Takes back what was added. Any thread.
  void Subtract(uint64_t count) { others_.fetch_sub(count); }
  uint64_t load() const { return own_.load(std::memory_order_acquire) + others_.load(); }

 private:
  std::atomic<uint64_t> own_{0}, others_{0};
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_SPLIT_COUNT_H_

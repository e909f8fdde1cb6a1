#ifndef RUNLOOP_RUNTIME_LATENCY_H_
#define RUNLOOP_RUNTIME_LATENCY_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/time/time.h"

namespace runloop {

// A distribution of durations in buckets of a relative width of 1/16: any value reported is within
// 7 % of one that was added. A row of buckets is allocated when a value first falls into it: most
// are never needed, and what there is lies close together. One thread adds at a time; any thread
// reads, and may miss the newest values.
class LatencyHistogram {
 public:
  LatencyHistogram() = default;
  ~LatencyHistogram();
  LatencyHistogram(const LatencyHistogram&) = delete;
  LatencyHistogram& operator=(const LatencyHistogram&) = delete;

  struct Summary {
    uint64_t count = 0;
    absl::Duration mean, p50, p99, max;
  };

  // Negative durations count as zero; above 9 minutes the percentiles say 9 minutes, `max` the
  // truth.
  void Add(absl::Duration value);
  Summary Summarize() const;

 private:
  static constexpr int kSubBuckets = 16;
  static constexpr int kExponents = 36;  // 16 ns * 2^35 is 9 minutes

  std::atomic<uint64_t> total_ns_{0};
  std::atomic<uint64_t> max_ns_{0};
  using Row = std::array<std::atomic<uint64_t>, kSubBuckets>;
  std::array<std::atomic<Row*>, kExponents> rows_{};
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_LATENCY_H_

#include "runloop/runtime/latency.h"

#include <algorithm>
#include <bit>

namespace runloop {
namespace {

constexpr int64_t kLongest = int64_t{24} * 3600 * 1'000'000'000;

}  // namespace

LatencyHistogram::~LatencyHistogram() {
  for (std::atomic<Row*>& row : rows_) delete row.load();
}

void LatencyHistogram::Add(absl::Duration value) {
  const auto ns =
      static_cast<uint64_t>(std::clamp<int64_t>(absl::ToInt64Nanoseconds(value), 0, kLongest));
  // Below 16 ns a bucket a nanosecond; above, 16 buckets an octave.
  const int octave = std::max(0, static_cast<int>(std::bit_width(ns)) - 5);
  const int exponent = std::min(ns < kSubBuckets ? 0 : octave + 1, kExponents - 1);
  const uint64_t sub =
      exponent == 0 ? ns
                    : std::min<uint64_t>((ns >> (exponent - 1)) - kSubBuckets, kSubBuckets - 1);
  Row* row = rows_[exponent].load(std::memory_order_relaxed);
  if (row == nullptr) {
    row = new Row{};
    rows_[exponent].store(row, std::memory_order_release);
  }
  std::atomic<uint64_t>& bucket = (*row)[sub];
  // One writer: no read-modify-write is needed.
  bucket.store(bucket.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  total_ns_.store(total_ns_.load(std::memory_order_relaxed) + ns, std::memory_order_relaxed);
  if (ns > max_ns_.load(std::memory_order_relaxed)) max_ns_.store(ns, std::memory_order_relaxed);
}

LatencyHistogram::Summary LatencyHistogram::Summarize() const {
  std::array<uint64_t, kSubBuckets * kExponents> counts;
  Summary summary;
  for (size_t i = 0; i < counts.size(); ++i) {
    const Row* const row = rows_[i / kSubBuckets].load(std::memory_order_acquire);
    counts[i] = row == nullptr ? 0 : (*row)[i % kSubBuckets].load(std::memory_order_relaxed);
    summary.count += counts[i];
  }
  if (summary.count == 0) return summary;
  const uint64_t max_ns = max_ns_.load(std::memory_order_relaxed);
  // The upper end of the bucket in which the quantile lies.
  auto quantile = [&](double q) {
    const auto wanted = static_cast<uint64_t>(q * static_cast<double>(summary.count - 1));
    uint64_t seen = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      seen += counts[i];
      if (seen <= wanted) continue;
      const uint64_t exponent = i / kSubBuckets, sub = i % kSubBuckets;
      const uint64_t upper = exponent == 0 ? sub : ((sub + kSubBuckets + 1) << (exponent - 1)) - 1;
      return absl::Nanoseconds(static_cast<int64_t>(std::min(upper, max_ns)));
    }
    return absl::Nanoseconds(static_cast<int64_t>(max_ns));
  };
  summary.mean = absl::Nanoseconds(
      static_cast<int64_t>(total_ns_.load(std::memory_order_relaxed) / summary.count));
  summary.p50 = quantile(0.50);
  summary.p99 = quantile(0.99);
  summary.max = absl::Nanoseconds(static_cast<int64_t>(max_ns));
  return summary;
}

}  // namespace runloop

#include "runloop/runtime/latency.h"

#include <gtest/gtest.h>

namespace runloop {
namespace {

TEST(LatencyHistogramTest, AnEmptyOneIsAllZero) {
  const LatencyHistogram::Summary summary = LatencyHistogram().Summarize();
  EXPECT_EQ(summary.count, 0u);
  EXPECT_EQ(summary.max, absl::ZeroDuration());
}

TEST(LatencyHistogramTest, PercentilesAreWithinSevenPercentFromANanosecondToMinutes) {
  for (int64_t ns = 1; ns < 300'000'000'000; ns = ns * 5 / 3 + 1) {
    LatencyHistogram histogram;
    for (int i = 0; i < 100; ++i) histogram.Add(absl::Nanoseconds(ns));
    histogram.Add(absl::Nanoseconds(2 * ns));
    const LatencyHistogram::Summary summary = histogram.Summarize();
    EXPECT_GE(summary.p50, absl::Nanoseconds(ns));
    EXPECT_LE(summary.p50, 1.07 * absl::Nanoseconds(ns));
    EXPECT_EQ(summary.max, absl::Nanoseconds(2 * ns));
    EXPECT_EQ(summary.count, 101u);
  }
}

TEST(LatencyHistogramTest, TheSlowestPercentIsSeen) {
  LatencyHistogram histogram;
  for (int i = 0; i < 980; ++i) histogram.Add(absl::Microseconds(10));
  for (int i = 0; i < 20; ++i) histogram.Add(absl::Milliseconds(5));
  const LatencyHistogram::Summary summary = histogram.Summarize();
  EXPECT_LE(summary.p50, absl::Microseconds(11));
  EXPECT_GE(summary.p99, absl::Milliseconds(5));
  EXPECT_EQ(summary.mean, (980 * absl::Microseconds(10) + 20 * absl::Milliseconds(5)) / 1000);
}

TEST(LatencyHistogramTest, WhatLiesOutsideTheRangeIsStillCounted) {
  LatencyHistogram histogram;
  histogram.Add(-absl::Seconds(1));
  histogram.Add(absl::Hours(1));
  EXPECT_EQ(histogram.Summarize().count, 2u);
  EXPECT_EQ(histogram.Summarize().max, absl::Hours(1));
}

}  // namespace
}  // namespace runloop

#include "runloop/daemon/invocation_window.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"

namespace runloop::daemon {
namespace {

std::string Described(InvocationWindow& window) {
  v1::InvocationRanges ranges;
  window.Describe(ranges);
  std::string text = absl::StrCat(ranges.watermark());
  for (const v1::InvocationRange& range : ranges.ranges()) {
    absl::StrAppend(&text, " ", range.first(), "-", range.last());
  }
  return text;
}

TEST(InvocationWindowTest, SettledInOrderIsAWatermark) {
  InvocationWindow window;
  for (uint64_t id = 1; id <= 5; ++id) window.Add(id);
  EXPECT_EQ(Described(window), "0");
  for (uint64_t number = 0; number < 3; ++number) window.Settle(number);
  EXPECT_EQ(Described(window), "3");
  EXPECT_EQ(window.unsettled(), 2u);
}

TEST(InvocationWindowTest, AnUnfinishedOneHoldsBackOnlyTheWatermark) {
  InvocationWindow window;
  for (uint64_t id = 1; id <= 6; ++id) window.Add(id);
  for (const uint64_t number : {1, 2, 4}) window.Settle(number);
  EXPECT_EQ(Described(window), "0 2-3 5-5");
  window.Settle(3);
  EXPECT_EQ(Described(window), "0 2-5");
  window.Settle(0);
  EXPECT_EQ(Described(window), "5");
}

TEST(InvocationWindowTest, GapsBetweenIdsAreNotRanges) {
  InvocationWindow window;
  for (const uint64_t id : {10, 20, 30, 40}) window.Add(id);
  window.Settle(1);
  window.Settle(2);
  EXPECT_EQ(Described(window), "0 20-30");
  EXPECT_EQ(window.IdOf(3), 40u);
  window.Settle(0);
  EXPECT_EQ(Described(window), "30");
}

TEST(InvocationWindowTest, AFewRangesAreRepeatedAndManyAreNot) {
  InvocationWindow window;
  constexpr uint64_t kMany = 4 * InvocationWindow::kRepeatedRanges;
  for (uint64_t id = 1; id <= kMany; ++id) window.Add(id);
  window.Settle(1);
  EXPECT_EQ(Described(window), "0 2-2");
  EXPECT_EQ(Described(window), "0 2-2");
  for (uint64_t number = 3; number < kMany; number += 2) window.Settle(number);
  v1::InvocationRanges ranges;
  window.Describe(ranges);
  EXPECT_GT(static_cast<size_t>(ranges.ranges_size()), InvocationWindow::kRepeatedRanges);
  EXPECT_EQ(Described(window), "0");
  window.Settle(2);
  EXPECT_EQ(Described(window), "0 2-4");
}

TEST(InvocationWindowTest, EveryOrderOfSettlingEndsWithEverythingBelowTheWatermark) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    InvocationWindow window;
    std::vector<uint64_t> numbers;
    std::vector<uint64_t> ids;
    uint64_t id = 0;
    for (int i = 0; i < 50; ++i) {
      id += 1 + random() % 3;
      numbers.push_back(window.Add(id));
      ids.push_back(id);
    }
    std::shuffle(numbers.begin(), numbers.end(), random);
    std::set<uint64_t> settled;
    for (const uint64_t number : numbers) {
      settled.insert(ids[number]);
      window.Settle(number);
      v1::InvocationRanges ranges;
      window.Describe(ranges);
      std::set<uint64_t> described;
      for (const uint64_t each : ids) {
        bool in = each <= ranges.watermark();
        for (const auto& range : ranges.ranges()) {
          in = in || (each >= range.first() && each <= range.last());
        }
        if (in) described.insert(each);
      }
      ASSERT_EQ(described, settled);
    }
    EXPECT_EQ(Described(window), absl::StrCat(id));
    EXPECT_EQ(window.unsettled(), 0u);
  }
}

TEST(InvocationWindowTest, AnEndIsExpectedUntilItIsBeingTold) {
  InvocationWindow window;
  const uint64_t number = window.Add(1);
  EXPECT_TRUE(window.Expects(number));
  window.BeginTelling(number);
  EXPECT_FALSE(window.Expects(number));
  EXPECT_FALSE(window.SettleIfExpected(number));
  window.Settle(number);
  EXPECT_EQ(window.unsettled(), 0u);
}

TEST(InvocationWindowTest, AnOldUnfinishedOneDoesNotKeepTheOthersInMemory) {
  InvocationWindow window;
  const uint64_t old = window.Add(10);
  uint64_t id = 10;
  for (int i = 0; i < 100'000; ++i) {
    const uint64_t number = window.Add(id += 2);
    EXPECT_EQ(window.IdOf(number), id);
    window.Settle(number);
    EXPECT_LE(window.kept(), 2 * window.unsettled() + InvocationWindow::kSlack);
  }
  // Two that are settled in the other order, after entries were swept out.
  const uint64_t next = window.Add(id + 1), last = window.Add(id + 5);
  window.Settle(last);
  EXPECT_EQ(window.IdOf(next), id + 1);
  EXPECT_EQ(Described(window), absl::StrCat("0 12-", id, " ", id + 5, "-", id + 5));
  window.Settle(old);
  EXPECT_EQ(Described(window), absl::StrCat(id, " ", id + 5, "-", id + 5));
  window.Settle(next);
  EXPECT_EQ(Described(window), absl::StrCat(id + 5));
  EXPECT_EQ(window.kept(), 0u);
}

}  // namespace
}  // namespace runloop::daemon

#include "runloop/client/unfinished.h"

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace runloop::internal {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class UnfinishedTest : public testing::Test {
 protected:
  UnfinishedTest() {
    for (uint64_t id = 1; id <= 10; ++id) Add(id);
  }

  void Add(uint64_t id, bool reply_wanted = false) {
    auto invocation = std::make_shared<RemoteInvocation>(nullptr, reply_wanted);
    invocation->id = id;
    unfinished_.Add(std::move(invocation), 100 + id);
  }

  static v1::InvocationRanges Ranges(uint64_t watermark,
                                     std::initializer_list<std::pair<uint64_t, uint64_t>> ranges) {
    v1::InvocationRanges result;
    result.set_watermark(watermark);
    for (const auto& [first, last] : ranges) {
      v1::InvocationRange* range = result.add_ranges();
      range->set_first(first);
      range->set_last(last);
    }
    return result;
  }

  static std::vector<uint64_t> Ids(const Unfinished::Invocations& invocations) {
    std::vector<uint64_t> ids;
    for (const auto& invocation : invocations) ids.push_back(invocation->id);
    return ids;
  }

  Unfinished unfinished_;
  Unfinished::Invocations taken_;
};

TEST_F(UnfinishedTest, EachIsTakenOnce) {
  EXPECT_EQ(unfinished_.Take(3)->id, 3u);
  EXPECT_EQ(unfinished_.Take(3), nullptr);
  EXPECT_EQ(unfinished_.Take(11), nullptr);
  EXPECT_FALSE(unfinished_.Contains(3));
  EXPECT_EQ(unfinished_.size(), 9u);
  EXPECT_EQ(unfinished_.bytes(), 1055 - 103);
}

TEST_F(UnfinishedTest, AWatermarkAndRangesTakeWhatTheyNameInOrder) {
  ASSERT_TRUE(unfinished_.TakeRanges(Ranges(2, {{4, 4}, {6, 8}}), 10, taken_).ok());
  EXPECT_THAT(Ids(taken_), ElementsAre(1, 2, 4, 6, 7, 8));
  EXPECT_EQ(unfinished_.bytes(), 103 + 105 + 109 + 110);
}

TEST_F(UnfinishedTest, WhatIsAcknowledgedAgainIsNotTakenAgain) {
  ASSERT_TRUE(unfinished_.TakeRanges(Ranges(2, {{4, 4}}), 10, taken_).ok());
  taken_.clear();
  ASSERT_TRUE(unfinished_.TakeRanges(Ranges(4, {}), 10, taken_).ok());
  EXPECT_THAT(Ids(taken_), ElementsAre(3));
  EXPECT_THAT(Ids(unfinished_.TakeAll()), ElementsAre(5, 6, 7, 8, 9, 10));
  EXPECT_EQ(unfinished_.bytes(), 0);
}

TEST_F(UnfinishedTest, RangesThatCannotBeAreRefusedWhole) {
  for (const v1::InvocationRanges& ranges :
       {Ranges(11, {}), Ranges(2, {{2, 3}}), Ranges(2, {{5, 4}}), Ranges(0, {{3, 5}, {5, 6}}),
        Ranges(1, {{9, ~uint64_t{0}}})}) {
    EXPECT_EQ(unfinished_.TakeRanges(ranges, 10, taken_).code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_THAT(taken_, IsEmpty());
  EXPECT_EQ(unfinished_.size(), 10u);
}

TEST_F(UnfinishedTest, ARangeAsWideAsTheNumbersCostsNothing) {
  ASSERT_TRUE(unfinished_.TakeRanges(Ranges(0, {{2, ~uint64_t{0}}}), ~uint64_t{0}, taken_).ok());
  EXPECT_EQ(taken_.size(), 9u);
}

TEST_F(UnfinishedTest, AnOldOneKeepsNoSlotsOfThoseThatEndedAfterIt) {
  constexpr uint64_t kLast = 100'000;
  for (uint64_t id = 11; id <= kLast; ++id) {
    Add(id);
    // One in a hundred stays.
    if (id % 100 == 0) continue;
    if (id % 2 == 0) {
      EXPECT_EQ(unfinished_.Take(id)->id, id);
    } else {
      ASSERT_TRUE(unfinished_.TakeRanges(Ranges(0, {{id, id}}), id, taken_).ok());
    }
    ASSERT_LE(unfinished_.kept(), 2 * unfinished_.size() + Unfinished::kSlack);
  }
  EXPECT_EQ(unfinished_.size(), 10 + kLast / 100);
  EXPECT_FALSE(unfinished_.Contains(kLast - 1));
  EXPECT_EQ(unfinished_.Take(kLast)->id, kLast);
  taken_.clear();
  ASSERT_TRUE(unfinished_.TakeRanges(Ranges(0, {{2, 99'900}}), kLast, taken_).ok());
  EXPECT_THAT(Ids(unfinished_.TakeAll()), ElementsAre(1));
  EXPECT_EQ(unfinished_.kept(), 0u);
  EXPECT_EQ(unfinished_.bytes(), 0);
  EXPECT_EQ(unfinished_.request_bytes(), 0u);
}

TEST_F(UnfinishedTest, RangesThatAreNamedAgainAndGrowTakeTheRest) {
  EXPECT_NE(unfinished_.Take(4), nullptr);
  EXPECT_NE(unfinished_.Take(8), nullptr);
  for (uint64_t last = 2; last <= 9; ++last) {
    ASSERT_TRUE(unfinished_.TakeRanges(Ranges(0, {{2, last}}), 10, taken_).ok());
  }
  EXPECT_THAT(Ids(taken_), ElementsAre(2, 3, 5, 6, 7, 9));
  taken_.clear();
  ASSERT_TRUE(unfinished_.TakeRanges(Ranges(1, {{3, 3}, {5, 10}}), 10, taken_).ok());
  EXPECT_THAT(Ids(taken_), ElementsAre(1, 10));
}

TEST_F(UnfinishedTest, IdsMayHaveGaps) {
  Add(20);
  Add(1'000'000'000);
  EXPECT_FALSE(unfinished_.Contains(15));
  EXPECT_EQ(unfinished_.Take(21), nullptr);
  EXPECT_EQ(unfinished_.Take(1'000'000'000)->id, 1'000'000'000u);
  ASSERT_TRUE(unfinished_.TakeRanges(Ranges(0, {{10, 19}, {20, 30}}), 30, taken_).ok());
  EXPECT_THAT(Ids(taken_), ElementsAre(10, 20));
}

TEST_F(UnfinishedTest, ThoseThatWantAReplyAreCounted) {
  Add(11, /*reply_wanted=*/true);
  Add(12, /*reply_wanted=*/true);
  EXPECT_EQ(unfinished_.replies_wanted(), 2u);
  unfinished_.Take(11);
  ASSERT_TRUE(unfinished_.TakeRanges(Ranges(12, {}), 12, taken_).ok());
  EXPECT_EQ(unfinished_.replies_wanted(), 0u);
}

}  // namespace
}  // namespace runloop::internal

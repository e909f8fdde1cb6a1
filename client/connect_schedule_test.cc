#include "runloop/client/connect_schedule.h"

#include "gtest/gtest.h"

namespace runloop::internal {
namespace {

constexpr absl::Duration kHour = absl::Hours(1);

class ConnectScheduleTest : public testing::Test {
 protected:
  // The wait that follows an attempt made when it was due.
  absl::Duration Fail(bool watched, bool refused = false) {
    now_ = std::max(now_, schedule_.next());
    schedule_.Failed(now_, refused, watched);
    return schedule_.next() - now_;
  }

  ConnectSchedule schedule_;
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(ConnectScheduleTest, BeginsAtOnce) { EXPECT_LE(schedule_.next(), now_); }

TEST_F(ConnectScheduleTest, WaitsTwiceAsLongEachTimeUpToASecond) {
  for (const int milliseconds : {20, 40, 80, 160, 320, 640, 1000, 1000}) {
    EXPECT_EQ(Fail(/*watched=*/false), absl::Milliseconds(milliseconds));
  }
}

TEST_F(ConnectScheduleTest, WaitsUpToFiveSecondsWhereAChangeWouldBeSeen) {
  for (const int milliseconds : {20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000}) {
    EXPECT_EQ(Fail(/*watched=*/true), absl::Milliseconds(milliseconds));
  }
  EXPECT_EQ(Fail(/*watched=*/false), absl::Seconds(1));  // it can be watched no longer
}

TEST_F(ConnectScheduleTest, ARefusalWaitsLongestFromTheStart) {
  EXPECT_EQ(Fail(/*watched=*/false, /*refused=*/true), absl::Seconds(1));
  EXPECT_EQ(Fail(/*watched=*/true, /*refused=*/true), absl::Seconds(5));
  schedule_.Wanted();
  EXPECT_EQ(schedule_.next() - now_, absl::Seconds(5));
}

TEST_F(ConnectScheduleTest, AChangeBeginsAgain) {
  while (Fail(/*watched=*/true) < absl::Seconds(5)) {
  }
  schedule_.Changed();
  EXPECT_EQ(schedule_.next() - now_, absl::Milliseconds(20));
  EXPECT_EQ(Fail(/*watched=*/true), absl::Milliseconds(20));
}

TEST_F(ConnectScheduleTest, ADispatchBringsTheNextAttemptForwardOnly) {
  while (Fail(/*watched=*/true) < absl::Seconds(5)) {
  }
  schedule_.Wanted();
  EXPECT_EQ(schedule_.next() - now_, absl::Milliseconds(20));
  EXPECT_EQ(Fail(/*watched=*/true), absl::Seconds(5));
}

TEST_F(ConnectScheduleTest, ASessionThatStoodIsFollowedByAnAttemptAtOnce) {
  while (Fail(/*watched=*/false) < absl::Seconds(1)) {
  }
  schedule_.SessionEnded(now_ + kHour, now_);
  EXPECT_EQ(schedule_.next(), now_ + kHour);
  now_ += kHour;
  EXPECT_EQ(Fail(/*watched=*/false), absl::Milliseconds(20));
}

TEST_F(ConnectScheduleTest, ASessionThatEndsAtOnceIsAFailure) {
  for (const int milliseconds : {20, 40, 80, 160, 320, 640, 1000, 1000}) {
    schedule_.SessionEnded(now_, now_);
    EXPECT_EQ(schedule_.next() - now_, absl::Milliseconds(milliseconds));
  }
}

}  // namespace
}  // namespace runloop::internal

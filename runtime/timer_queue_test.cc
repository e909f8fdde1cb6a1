#include "runloop/runtime/timer_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <vector>

#include "runloop/runtime/lifecycle.h"
#include "runloop/runtime/task_queue.h"

namespace runloop::internal {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr absl::Duration kMs = absl::Milliseconds(1);

class PlainTask final : public Task {
 public:
  RunResult Run() override { return RunResult::kSucceeded; }
  void Skip(const absl::Status&) override {}
  void Release() override {}
};

class TimerQueueTest : public testing::Test {
 protected:
  PlainTask& Add(absl::Duration in, absl::Duration deadline = absl::InfiniteDuration()) {
    PlainTask& task = tasks_.emplace_back();
    task.deadline = now_ + deadline;
    EXPECT_TRUE(lifecycle_.Admit(task, nullptr, Task::State::kDelayed).ok());
    EXPECT_TRUE(timers_.Add(task, now_ + in));
    return task;
  }
  // When it would be woken, from now_, each time that it is set anew.
  std::vector<absl::Duration> Set() {
    std::vector<absl::Duration> set;
    timers_.SetWake([&](absl::Time at) { set.push_back(at - now_); });
    return set;
  }
  size_t Join() {
    std::vector<Task*> expired;
    timers_.JoinDue(now_, expired);
    EXPECT_THAT(expired, IsEmpty());
    size_t joined = 0;
    while (queue_.Pop(now_).task != nullptr) ++joined;
    return joined;
  }

  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  std::deque<PlainTask> tasks_;
  Lifecycle lifecycle_{{}, [](const Account*, const Session*) { return std::string(); }};
  TaskQueue queue_{lifecycle_.closures().started()};
  TimerQueue timers_{lifecycle_, queue_};
};

TEST_F(TimerQueueTest, NothingIsSetWhereNothingWaits) {
  EXPECT_TRUE(timers_.rests());
  EXPECT_THAT(Set(), IsEmpty());
}

TEST_F(TimerQueueTest, OneWakeUpIsSetForThoseThatAreDueWithinTheSlackOfTheFirst) {
  Add(5 * kMs);
  EXPECT_THAT(Set(), ElementsAre(5 * kMs)) << "alone it is not late";
  EXPECT_THAT(Set(), IsEmpty()) << "it is set";
  Add(5.4 * kMs);
  Add(6 * kMs);
  Add(6.1 * kMs);
  EXPECT_THAT(Set(), ElementsAre(6 * kMs));
  EXPECT_FALSE(timers_.IsDue(now_ + 4.9 * kMs));
  EXPECT_TRUE(timers_.IsDue(now_ + 5 * kMs)) << "whoever is awake lets it join";
  now_ += 6 * kMs;
  EXPECT_EQ(Join(), 3u);
  EXPECT_THAT(Set(), ElementsAre(0.1 * kMs));
  now_ += 0.1 * kMs;
  EXPECT_EQ(Join(), 1u);
  EXPECT_FALSE(timers_.rests()) << "the wake-up is still set";
  EXPECT_THAT(Set(), ElementsAre(absl::InfiniteDuration()));
  EXPECT_TRUE(timers_.rests());
}

TEST_F(TimerQueueTest, WhatIsTakenOutNeedsNoWakeUp) {
  PlainTask& first = Add(5 * kMs);
  Add(9 * kMs);
  EXPECT_THAT(Set(), ElementsAre(5 * kMs));
  EXPECT_TRUE(timers_.Take(first));
  EXPECT_FALSE(timers_.Take(first));
  EXPECT_THAT(Set(), ElementsAre(9 * kMs));
  EXPECT_THAT(timers_.TakeIf(nullptr, [](Task&) { return true; }), testing::SizeIs(1));
  EXPECT_THAT(Set(), ElementsAre(absl::InfiniteDuration()));
}

TEST_F(TimerQueueTest, WhatIsDueWithinANanosecondIsNotDueNow) {
  Add(kMs + absl::Nanoseconds(1) / 4);
  now_ += kMs;
  EXPECT_FALSE(timers_.IsDue(now_));
  now_ += absl::Nanoseconds(1);
  EXPECT_TRUE(timers_.IsDue(now_));
  EXPECT_EQ(Join(), 1u);
}

TEST_F(TimerQueueTest, KnowsTheFirstDeadlineOfWhatWaits) {
  EXPECT_EQ(timers_.earliest_deadline(), absl::InfiniteFuture());
  Add(kMs);
  PlainTask& first = Add(5 * kMs, 2 * kMs);
  // No earlier than it is due.
  Add(3 * kMs, 3 * kMs + absl::Nanoseconds(1) / 4);
  EXPECT_EQ(timers_.earliest_deadline(), now_ + 2 * kMs);
  EXPECT_TRUE(timers_.Take(first));
  EXPECT_EQ(timers_.earliest_deadline(), now_ + 3 * kMs + absl::Nanoseconds(1));
  now_ += 3 * kMs;
  EXPECT_EQ(Join(), 2u);
  EXPECT_EQ(timers_.earliest_deadline(), absl::InfiniteFuture());
}

TEST_F(TimerQueueTest, GivesWhatIsLeftWhenItIsClosedAndTakesNothingMore) {
  PlainTask& later = Add(2 * kMs);
  PlainTask& first = Add(kMs);
  EXPECT_THAT(timers_.Close(), ElementsAre(&first, &later));
  PlainTask late;
  EXPECT_FALSE(timers_.Add(late, now_));
  EXPECT_THAT(Set(), IsEmpty());
}

}  // namespace
}  // namespace runloop::internal

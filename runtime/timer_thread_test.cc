// Timers where it matters which thread keeps the time: the loop, the service thread, or one that
// cancels while the runtime thread runs.

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/external_loop.h"
#include "runloop/runtime/runtime.h"
#include "runloop/runtime/timer.h"
#include "runloop/tests/testing/fake_clock.h"
#include "runloop/tests/testing/remote_session.h"

namespace runloop {
namespace {

using test::v1::EchoRequest;
using test::v1::RecordRequest;

constexpr absl::Duration kMs = absl::Milliseconds(1);

// By the kernel's clock, so that it is the loop that keeps the time. The service thread need not.
TEST(TimerLoopTest, WhatIsDelayedExpiresWhileTheThreadIsBusyWithWhatIsNoTask) {
  for (const bool asleep : {true, false}) {
    auto owned = std::make_unique<ExternalLoop>();
    ExternalLoop& loop = *owned;
    RuntimeOptions options{.loop = std::move(owned)};
    const auto operations = TestOperations::Register(options.operations);
    const auto runtime = *Runtime::Create(std::move(options));
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([] {}).ok());
    }
    while (loop.Drain({.tasks = 1}) && asleep) {
    }
    // From here on the loop is not run.
    RemoteSession session(*runtime);
    const absl::Time now = Clock::Monotonic()->Now();
    const auto late =
        session.Dispatch(kRecord, RecordRequest(), {.deadline = now + 20 * kMs, .delay = 10 * kMs});
    const auto early = session.Dispatch(kRecord, RecordRequest(),
                                        {.deadline = now + 10 * kMs, .delay = absl::Hours(1)});
    EXPECT_EQ(ReasonOf(early->Await()), v1::ERROR_REASON_EXPIRED);
    EXPECT_EQ(ReasonOf(late->Await()), v1::ERROR_REASON_EXPIRED);
    EXPECT_EQ(runtime->GetSnapshot().ledger.delayed, 0u);
  }
}

class TimerThreadTest : public testing::Test {
 protected:
  void Start(Clock* clock = nullptr) {
    RuntimeOptions options{.thread = RuntimeThread::kSpawn, .clock = clock};
    options.log = [](LogSeverity, std::string_view) {};
    operations_ = TestOperations::Register(options.operations);
    runtime_ = *Runtime::Create(std::move(options));
  }
  void TearDown() override {
    operations_->LetGo();
    runtime_.reset();
  }

  FakeClock clock_;
  std::shared_ptr<TestOperations> operations_;
  std::unique_ptr<Runtime> runtime_;
};

TEST_F(TimerThreadTest, WakesALoopThatKeepsAnotherTimeThanItsClock) {
  Start(&clock_);
  absl::Notification ran;
  ASSERT_TRUE(runtime_->context().RunAfter(absl::Hours(1), [&] { ran.Notify(); }).ok());
  clock_.AwaitWaiter(absl::Hours(1));
  EXPECT_FALSE(ran.HasBeenNotified());
  clock_.Advance(absl::Hours(1));
  ran.WaitForNotification();
}

TEST_F(TimerThreadTest, WhatExpiresIsToldWhileTheRuntimeThreadIsStuck) {
  Start(&clock_);
  RemoteSession session(*runtime_);
  const auto hold = session.Dispatch(kHold, test::v1::HoldRequest());
  operations_->AwaitHeld();
  const auto expires = session.Dispatch(kEcho, EchoRequest(),
                                        {.deadline = clock_.Now() + 10 * kMs, .delay = 20 * kMs});
  clock_.AwaitWaiter(10 * kMs);
  clock_.Advance(10 * kMs);
  EXPECT_EQ(ReasonOf(expires->Await()), v1::ERROR_REASON_EXPIRED);
}

TEST_F(TimerThreadTest, ADrainDoesNotWaitForWhatIsNotDue) {
  Start();
  RemoteSession session(*runtime_);
  const auto delayed = session.Dispatch(kEcho, EchoRequest(), {.delay = absl::Hours(1)});
  auto captured = std::make_shared<int>();
  ASSERT_TRUE(runtime_->context().RunAfter(absl::Hours(1), [captured] {}).ok());
  ASSERT_TRUE(runtime_->context().RunEvery(absl::Hours(1), [captured] {}).ok());
  const Runtime::DrainResult result = runtime_->Drain(absl::Hours(1));
  EXPECT_TRUE(result.drained);
  EXPECT_EQ(ReasonOf(delayed->Await()), v1::ERROR_REASON_RUNTIME_STOPPED);
  EXPECT_EQ(captured.use_count(), 1);
  EXPECT_EQ(result.ledger.delayed, 0u);
  EXPECT_EQ(result.ledger.abandoned, 3u);
}

TEST_F(TimerThreadTest, ADrainRunsTimersThatWhatItWaitsForNeeds) {
  Start();
  RemoteSession session(*runtime_);
  const auto deferred = session.Dispatch(kDefer, test::v1::DeferRequest());
  auto completion = std::make_shared<Completion<test::v1::DeferReply>>(operations_->TakeDeferred());
  int runs = 0;
  absl::StatusOr<Timer> timer = runtime_->context().RunEvery(kMs, [&, completion] {
    if (++runs == 3) completion->Finish(test::v1::DeferReply());
  });
  ASSERT_TRUE(timer.ok());
  EXPECT_TRUE(runtime_->Drain(absl::Hours(1)).drained);
  EXPECT_GE(runs, 3);
  EXPECT_TRUE(deferred->Await().ok());
}

TEST_F(TimerThreadTest, ACancelFromAnotherThreadSaysWhetherItCameInTime) {
  Start();
  constexpr int kThreads = 3;
  constexpr int kEach = 2000;
  struct One {
    std::atomic<int> runs{0};
    bool cancelled = false;
  };
  std::vector<std::vector<One>> all;
  for (int i = 0; i < kThreads; ++i) all.emplace_back(kEach);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      const LocalRuntimeContext context = runtime_->context();
      for (int j = 0; j < kEach; ++j) {
        One& one = all[i][j];
        const absl::StatusOr<Timer> timer =
            context.RunAfter(absl::Microseconds(j % 40), [&one] { ++one.runs; });
        ASSERT_TRUE(timer.ok());
        for (int k = 0; k < j % 7; ++k) std::this_thread::yield();
        one.cancelled = timer->Cancel();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  // Behind all that is due.
  absl::Notification last;
  ASSERT_TRUE(runtime_->context().RunAfter(kMs, [&] { last.Notify(); }).ok());
  last.WaitForNotification();
  uint64_t ran = 0, cancelled = 0;
  for (std::vector<One>& of_thread : all) {
    for (One& one : of_thread) {
      EXPECT_EQ(one.runs.load() + (one.cancelled ? 1 : 0), 1) << "one outcome";
      (one.cancelled ? cancelled : ran) += 1;
    }
  }
  const Ledger::Counts ledger = runtime_->Drain(absl::Hours(1)).ledger;
  EXPECT_EQ(ledger.cancelled, cancelled);
  EXPECT_EQ(ledger.succeeded, ran + 1);
}

TEST_F(TimerThreadTest, APeriodicOneThatIsCancelledAnywhereRunsNoMoreOnceAllIsQuiet) {
  Start();
  const LocalRuntimeContext context = runtime_->context();
  for (int i = 0; i < 200; ++i) {
    auto runs = std::make_shared<std::atomic<int>>(0);
    const Timer timer = *context.RunEvery(absl::Microseconds(5), [runs] { runs->fetch_add(1); });
    while (runs->load() < i % 3) std::this_thread::yield();
    EXPECT_TRUE(timer.Cancel());
    // Behind the run that may have been going on: it was the last, and the closure is destroyed.
    ASSERT_TRUE(context.RunOnRuntimeThreadBlocking([] {}).ok());
    EXPECT_EQ(runs.use_count(), 1);
  }
}
}  // namespace
}  // namespace runloop

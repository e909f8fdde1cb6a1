#include "runloop/runtime/slow_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/fake_clock.h"
#include "runloop/tests/testing/remote_session.h"

namespace runloop {
namespace {

using internal::SlowLog;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

constexpr absl::Duration kWait = absl::Seconds(1), kRun = absl::Milliseconds(100);
constexpr char kTrace[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

class SlowLogTest : public testing::Test {
 protected:
  bool Add(absl::Duration wait, absl::Duration run) {
    return log_.Add(run, now_, [&] {
      ++described_;
      return InvocationStatus{.operation = absl::StrCat("op", described_),
                              .queue_wait = wait,
                              .execution = run,
                              .ended = now_};
    });
  }

  SlowLog log_{kWait, kRun};
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  int described_ = 0;
};

TEST_F(SlowLogTest, ThresholdsAreSlowAndWhatIsJustBelowIsNot) {
  EXPECT_TRUE(log_.IsSlowWait(kWait));
  EXPECT_FALSE(log_.IsSlowWait(kWait - absl::Nanoseconds(1)));
  EXPECT_TRUE(log_.IsSlowRun(kRun));
  EXPECT_FALSE(log_.IsSlowRun(kRun - absl::Nanoseconds(1)));
  const SlowLog off(absl::InfiniteDuration(), absl::InfiniteDuration());
  EXPECT_FALSE(off.IsSlowWait(absl::Hours(1000)));
  EXPECT_FALSE(off.IsSlowRun(absl::Hours(1000)));
}

TEST_F(SlowLogTest, TellsWhatIsKnownOfOneAndNothingElse) {
  InvocationStatus slow{.operation = "a.B/C",
                        .session_id = "s1",
                        .client_name = "recorder",
                        .pid = 7,
                        .role = "camera",
                        .call_site = "src/main.cc:42 (int main())",
                        .trace_id = "4bf92f3577b34da6a3ce929d0e0e4736",
                        .queue_wait = absl::Seconds(2),
                        .execution = absl::Milliseconds(150)};
  EXPECT_EQ(slow.ToString(),
            "a.B/C of session s1 (client recorder, pid 7, role camera), called at src/main.cc:42 "
            "(int main()), trace 4bf92f3577b34da6a3ce929d0e0e4736, waited for 2s, ran for 150ms");
  EXPECT_EQ((InvocationStatus{.operation = "(closure)", .execution = kRun}.ToString()),
            "(closure), ran for 100ms");
}

TEST_F(SlowLogTest, LogsFiveOfAKindInTenSecondsAndThenHowManyWereLeftOut) {
  EXPECT_EQ(log_.next_due(), absl::InfiniteFuture());
  EXPECT_TRUE(Add(kWait, absl::ZeroDuration()));
  for (int i = 1; i < SlowLog::kLines; ++i) EXPECT_FALSE(Add(kWait, absl::ZeroDuration()));
  EXPECT_LE(log_.next_due(), now_);
  EXPECT_THAT(log_.TakeLines(now_), SizeIs(SlowLog::kLines));
  EXPECT_EQ(log_.next_due(), absl::InfiniteFuture());

  EXPECT_TRUE(Add(kWait, absl::ZeroDuration()));  // there will be a line at the window's end
  EXPECT_EQ(log_.next_due(), now_ + SlowLog::kWindow);
  for (int i = 1; i < 1000; ++i) EXPECT_FALSE(Add(kWait, absl::ZeroDuration()));
  EXPECT_EQ(described_, SlowLog::kLines);  // the rest costs no text
  EXPECT_THAT(log_.TakeLines(now_ + SlowLog::kWindow - absl::Nanoseconds(1)), IsEmpty());
  EXPECT_THAT(log_.TakeLines(now_ + SlowLog::kWindow),
              ElementsAre(AllOf(HasSubstr("1000 more"), HasSubstr("waited for at least 1s"))));
  EXPECT_EQ(log_.next_due(), absl::InfiniteFuture());
  EXPECT_EQ(log_.count(), 1005u);

  now_ += SlowLog::kWindow;
  EXPECT_TRUE(Add(kWait, absl::ZeroDuration()));
  EXPECT_THAT(log_.TakeLines(now_), SizeIs(1));
}

TEST_F(SlowLogTest, OneThatComesFirstInANewWindowIsLoggedAfterWhatTheOldOneLeftOut) {
  for (int i = 0; i < SlowLog::kLines + 3; ++i) Add(kWait, absl::ZeroDuration());
  (void)log_.TakeLines(now_);
  now_ += 2 * SlowLog::kWindow;
  Add(kWait, absl::ZeroDuration());
  EXPECT_THAT(log_.TakeLines(now_), ElementsAre(HasSubstr("3 more"), HasSubstr("op6")));
}

TEST_F(SlowLogTest, AFloodOfThoseThatWaitedHidesNoneThatRan) {
  for (int i = 0; i < 1000; ++i) Add(kWait, absl::ZeroDuration());
  Add(2 * kWait, kRun);
  EXPECT_THAT(log_.TakeLines(now_), testing::Contains(HasSubstr("ran for 100ms")));
  EXPECT_EQ(log_.Recent().front().execution, kRun);
  EXPECT_THAT(log_.Recent(), SizeIs(1 + SlowLog::kLines));
}

TEST_F(SlowLogTest, KeepsTheLatestAndNoMoreThanItMay) {
  for (int i = 0; i < 100; ++i) Add(absl::ZeroDuration(), kRun);
  const std::vector<InvocationStatus> recent = log_.Recent();
  ASSERT_THAT(recent, SizeIs(SlowLog::kRecent));
  EXPECT_EQ(recent.front().operation, "op100");
  EXPECT_EQ(recent.back().operation, "op85");
}

// The runtime with it, on a clock that work itself advances.
class SlowOperationsTest : public testing::Test {
 protected:
  void Start(absl::Duration slow_queue_wait = kWait, absl::Duration slow_execution = kRun) {
    OperationRegistry registry;
    operations_ = TestOperations::Register(registry);
    runtime_ = *Runtime::Create({.operations = std::move(registry),
                                 .stall_threshold = absl::InfiniteDuration(),
                                 .slow_queue_wait = slow_queue_wait,
                                 .slow_execution = slow_execution,
                                 .clock = &clock_,
                                 .log = [this](LogSeverity, std::string_view line) {
                                   // The clock may go on before the loop has begun.
                                   if (line.find("has not started") != line.npos) return;
                                   absl::MutexLock lock(&mutex_);
                                   lines_.emplace_back(line);
                                 }});
  }
  void TearDown() override { runtime_.reset(); }

  // Runs the loop until what was posted so far has run.
  void Run() {
    ASSERT_TRUE(runtime_->context().RunOnRuntimeThreadAsync([&] { runtime_->Stop(); }).ok());
    ASSERT_TRUE(runtime_->Run().ok());
  }
  void AwaitLines(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return lines_.size() >= count;
    };
    mutex_.Await(absl::Condition(&enough));
  }
  // All that there will ever be.
  std::vector<std::string> AllLines() {
    (void)runtime_->Drain(absl::Seconds(1));
    absl::MutexLock lock(&mutex_);
    return lines_;
  }
  void Post(absl::Duration runs) {
    ASSERT_TRUE(
        runtime_->context().RunOnRuntimeThreadAsync([this, runs] { clock_.Advance(runs); }).ok());
  }

  FakeClock clock_;
  std::shared_ptr<TestOperations> operations_;
  std::unique_ptr<Runtime> runtime_;
  absl::Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(SlowOperationsTest, AClosureThatRunsForLongIsNamedByWhereItCameFrom) {
  Start();
  Post(kRun - absl::Nanoseconds(1));
  Run();
  EXPECT_EQ(runtime_->GetSnapshot().slow, 0u);
  Post(kRun);
  Run();
  AwaitLines(1);
  EXPECT_EQ(runtime_->GetSnapshot().slow, 1u);
  ASSERT_THAT(runtime_->GetSnapshot().recent_slow, SizeIs(1));
  EXPECT_EQ(runtime_->GetSnapshot().recent_slow[0].execution, kRun);
  EXPECT_THAT(AllLines(), ElementsAre(AllOf(HasSubstr("slow: (closure), called at"),
                                            HasSubstr("runtime/slow_log_test.cc:"),
                                            HasSubstr("Post"), HasSubstr("ran for 100ms"))));
}

TEST_F(SlowOperationsTest, AnOperationThatWaitedForLongIsNamedWithItsWorkerAndTrace) {
  Start();
  RemoteSession session(*runtime_, {.pid = 7, .uid = 1, .role = "camera"});
  const CallSite told(session->call_sites().Keep("worker.cc", 42, "Work()"));
  const auto echo = [&](std::string trace = "") {
    return session.Dispatch(
        kEcho, test::v1::EchoRequest(),
        {.call_site = told, .trace_parent = internal::KeepTraceParent(std::move(trace))});
  };
  auto quick = echo();
  clock_.Advance(kWait - absl::Nanoseconds(1));
  Run();
  EXPECT_EQ(runtime_->GetSnapshot().slow, 0u);
  auto late = echo(kTrace);
  clock_.Advance(kWait);
  Run();
  AwaitLines(1);
  EXPECT_THAT(
      AllLines(),
      ElementsAre("slow: runloop.test.v1.TestOperations/Echo of session s1 (client test, pid 7, "
                  "role camera), called at worker.cc:42 (Work()), trace "
                  "4bf92f3577b34da6a3ce929d0e0e4736, waited for 1s, ran for 0"));
}

TEST_F(SlowOperationsTest, InfiniteThresholdsSwitchItOff) {
  Start(absl::InfiniteDuration(), absl::InfiniteDuration());
  RemoteSession session(*runtime_);
  auto echo = session.Dispatch(kEcho, test::v1::EchoRequest());
  clock_.Advance(absl::Hours(1));
  Post(absl::Hours(1));
  Run();
  EXPECT_EQ(runtime_->GetSnapshot().slow, 0u);
  EXPECT_THAT(AllLines(), IsEmpty());
}

TEST_F(SlowOperationsTest, AFloodIsCountedAndSaidOnceItsTimeIsOver) {
  Start();
  RemoteSession session(*runtime_);
  for (int i = 0; i < 100; ++i) (void)session.Dispatch(kEcho, test::v1::EchoRequest());
  clock_.Advance(kWait);
  Run();
  AwaitLines(SlowLog::kLines);
  EXPECT_EQ(runtime_->GetSnapshot().slow, 100u);
  clock_.AwaitWaiter(SlowLog::kWindow);
  clock_.Advance(SlowLog::kWindow);
  AwaitLines(SlowLog::kLines + 1);
  absl::MutexLock lock(&mutex_);
  EXPECT_THAT(lines_.back(), HasSubstr("95 more that waited for at least 1s"));
}

TEST_F(SlowOperationsTest, WhatIsToBeLoggedIsLoggedBeforeTheRuntimeIsGone) {
  Start();
  RemoteSession session(*runtime_);
  for (int i = 0; i < 6; ++i) (void)session.Dispatch(kEcho, test::v1::EchoRequest());
  clock_.Advance(kWait);
  Run();
  const std::vector<std::string> lines = AllLines();
  ASSERT_THAT(lines, SizeIs(SlowLog::kLines + 1));
  EXPECT_THAT(lines.back(), HasSubstr("1 more"));
}

// The time until its completion comes is nobody's who waits for the thread.
TEST_F(SlowOperationsTest, ADeferredOperationRunsUntilItsHandlerReturns) {
  Start();
  RemoteSession session(*runtime_);
  auto defer = session.Dispatch(kDefer, test::v1::DeferRequest());
  Run();
  Completion<test::v1::DeferReply> completion = operations_->TakeDeferred();
  clock_.Advance(absl::Seconds(20));
  completion.Finish(test::v1::DeferReply());
  EXPECT_TRUE(defer->Await().ok());
  EXPECT_EQ(runtime_->GetSnapshot().slow, 0u);
}

TEST_F(SlowOperationsTest, ABlockingClosureIsNamedToo) {
  Start();
  absl::Notification done;
  std::thread caller([&] {
    EXPECT_TRUE(
        runtime_->context().RunOnRuntimeThreadBlocking([this] { clock_.Advance(kRun); }).ok());
    runtime_->Stop();
  });
  ASSERT_TRUE(runtime_->Run().ok());
  caller.join();
  EXPECT_THAT(AllLines(), ElementsAre(AllOf(HasSubstr("slow: (closure), called at"),
                                            HasSubstr("slow_log_test.cc"))));
}

}  // namespace
}  // namespace runloop

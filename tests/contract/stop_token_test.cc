// What a stop token does to a dispatch, over every way to a runtime.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <stop_token>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "runloop/runtime/pending.h"
#include "runloop/runtime/wait.h"
#include "runloop/tests/contract/fixture.h"
#include "runloop/tests/testing/task.h"

namespace runloop {
namespace {

using test::v1::EchoReply;
using test::v1::HoldReply;
using test::v1::HoldRequest;
using test::v1::MakeReply;
using test::v1::MakeRequest;
using test::v1::RecordReply;
using testing::ElementsAre;
using testing::IsEmpty;

class StopTokenTest : public ContractTest {
 protected:
  static void ExpectStopped(const absl::Status& status, v1::ErrorReason reason) {
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
    EXPECT_EQ(ReasonOf(status), reason) << status;
  }
  uint64_t Admitted() { return runtime_->GetSnapshot().ledger.admitted; }
};

INSTANTIATE_TEST_SUITE_P(, StopTokenTest, testing::ValuesIn(kPaths), PathName);

TEST_P(StopTokenTest, RequestedBeforeTheCallNothingIsSent) {
  Start();
  const RuntimeContext context = Context();
  std::stop_source source;
  source.request_stop();
  const DispatchOptions options{.stop_token = source.get_token()};
  ExpectStopped(context.DispatchAsync(kRecord, Record(0, 0), options).Await(),
                v1::ERROR_REASON_CANCELLED);
  ExpectStopped(context.DispatchBlocking<RecordReply>(kRecord, Record(0, 0), options).status(),
                v1::ERROR_REASON_CANCELLED);
  const TestTask task = [](const RuntimeContext& to, const DispatchOptions& how) -> TestTask {
    ExpectStopped((co_await to.Dispatch<RecordReply>(kRecord, Record(0, 0), how)).status(),
                  v1::ERROR_REASON_CANCELLED);
  }(context, options);
  EXPECT_TRUE(task.ended());
  ASSERT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("")).ok());
  EXPECT_EQ(Admitted(), 1u);
}

TEST_P(StopTokenTest, WhatHasNotStartedNeverRunsWhoeverWaitsForIt) {
  Start();
  const RuntimeContext context = Context();
  std::stop_source source;
  const DispatchOptions options{.stop_token = source.get_token()};
  const Invocation hold = Hold(context);
  const Invocation async = context.DispatchAsync(kRecord, Record(0, 0), options);
  absl::Status awaited;
  const TestTask task = [](const RuntimeContext& to, const DispatchOptions& how,
                           absl::Status& status) -> TestTask {
    status = (co_await to.Dispatch<RecordReply>(kRecord, Record(0, 1), how)).status();
  }(context, options, awaited);
  std::thread blocking([&] {
    ExpectStopped(context.DispatchBlocking<RecordReply>(kRecord, Record(0, 2), options).status(),
                  v1::ERROR_REASON_CANCELLED);
  });
  while (runtime_->GetSnapshot().ledger.queued < 3) std::this_thread::yield();
  source.request_stop();
  ExpectStopped(async.Await(), v1::ERROR_REASON_CANCELLED);
  task.AwaitEnd();
  ExpectStopped(awaited, v1::ERROR_REASON_CANCELLED);
  blocking.join();
  operations_->LetGo();
  ASSERT_TRUE(hold.Await().ok());
  ASSERT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("")).ok());
  EXPECT_THAT(operations_->record(), IsEmpty());
  EXPECT_EQ(runtime_->GetSnapshot().ledger.cancelled, 3u);
}

TEST_P(StopTokenTest, WhatRunsHasItsOwnOutcomeForWhoDidNotWait) {
  Start();
  const RuntimeContext context = Context();
  std::stop_source source;
  const Invocation hold =
      context.DispatchAsync(kHold, HoldRequest(), {.stop_token = source.get_token()});
  operations_->AwaitHeld();
  source.request_stop();
  EXPECT_EQ(ReasonOf(hold.Await(absl::Milliseconds(1))), v1::ERROR_REASON_STILL_RUNNING);
  operations_->LetGo();
  EXPECT_TRUE(hold.Await().ok());
}

TEST_P(StopTokenTest, WhoBlocksOnWhatRunsStopsWaitingAndWhatItMakesIsReleased) {
  Start();
  const RuntimeContext context = Context();
  std::stop_source source;
  MakeRequest make;
  make.set_name("late");
  make.set_holds_first(true);
  std::thread blocking([&] {
    ExpectStopped(context
                      .DispatchBlocking<MakeReply>(
                          kMake, make,
                          {.timeout = absl::InfiniteDuration(), .stop_token = source.get_token()})
                      .status(),
                  v1::ERROR_REASON_STILL_RUNNING);
  });
  operations_->AwaitHeld();
  source.request_stop();
  blocking.join();
  EXPECT_EQ(runtime_->GetSnapshot().ledger.given_up, 1u);
  operations_->LetGo();
  operations_->AwaitDestroyed(1);
  EXPECT_THAT(operations_->destroyed(), ElementsAre("late"));
}

TEST_P(StopTokenTest, ACoroutineThatAwaitsWhatRunsGoesOn) {
  Start();
  const RuntimeContext context = Context();
  std::stop_source source;
  ManualExecutor here;
  const TestTask task = [](const RuntimeContext& to, std::stop_token token,
                           ManualExecutor& on) -> TestTask {
    const DispatchOptions options{.stop_token = token};
    ExpectStopped(
        (co_await to.Dispatch<HoldReply>(kHold, HoldRequest(), options).On(on.executor())).status(),
        v1::ERROR_REASON_STILL_RUNNING);
  }(context, source.get_token(), here);
  operations_->AwaitHeld();
  source.request_stop();
  here.RunOne();
  EXPECT_TRUE(task.ended());
  operations_->LetGo();
}

TEST_P(StopTokenTest, StopMayBeRequestedInACallbackOfWhatItStops) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  std::stop_source source;
  const DispatchOptions options{.stop_token = source.get_token()};
  const Invocation first = context.DispatchAsync(kEcho, Echo(""), options);
  std::vector<Invocation> others;
  for (uint64_t i = 0; i < 10; ++i) {
    others.push_back(context.DispatchAsync(kRecord, Record(0, i), options));
    others.back().Watch([source](const absl::Status&) mutable { source.request_stop(); });
  }
  first.Watch([source](const absl::Status&) mutable { source.request_stop(); });
  operations_->LetGo();
  EXPECT_TRUE(first.Await().ok());
  for (const Invocation& other : others) {
    const absl::Status status = other.Await();
    EXPECT_TRUE(status.ok() || absl::IsCancelled(status)) << status;
  }
}

TEST_P(StopTokenTest, StopMayBeRequestedOnTheRuntimeThread) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  std::stop_source source;
  const DispatchOptions options{.stop_token = source.get_token()};
  const absl::Status posted =
      runtime_->context().RunOnRuntimeThreadAsync([&] { source.request_stop(); });
  ASSERT_TRUE(posted.ok()) << posted;
  const Invocation async = context.DispatchAsync(kRecord, Record(0, 0), options);
  std::thread letting_go([&] {
    while (runtime_->GetSnapshot().ledger.queued < 3) std::this_thread::yield();
    operations_->LetGo();
  });
  // In process both are cancelled before the thread comes to them; a daemon is told at the same
  // time as it goes on.
  const absl::Status outcomes[] = {
      context.DispatchBlocking<RecordReply>(kRecord, Record(0, 1), options).status(),
      async.Await()};
  for (const absl::Status& outcome : outcomes) {
    if (outcome.ok() && GetParam() != Path::kLocal) continue;
    const bool ran = ReasonOf(outcome) == v1::ERROR_REASON_STILL_RUNNING;
    ExpectStopped(outcome, ran && GetParam() != Path::kLocal ? v1::ERROR_REASON_STILL_RUNNING
                                                             : v1::ERROR_REASON_CANCELLED);
  }
  letting_go.join();
}

// Stop is requested while invocations start and end: each has one outcome, nobody hangs, and the
// ledger balances.
TEST_P(StopTokenTest, StopMayBeRequestedAtAnyMoment) {
  Start();
  const RuntimeContext context = Context();
  constexpr int kRounds = 100;
  std::atomic<int> ended{0};
  for (int round = 0; round < kRounds; ++round) {
    std::stop_source source;
    const DispatchOptions options{.stop_token = source.get_token()};
    absl::Notification go;
    std::thread stopper([&] {
      go.WaitForNotification();
      source.request_stop();
    });
    std::thread blocking([&] {
      const auto reply = context.DispatchBlocking<RecordReply>(kRecord, Record(1, 0), options);
      EXPECT_TRUE(reply.ok() || absl::IsCancelled(reply.status())) << reply.status();
    });
    std::vector<Invocation> all;
    for (uint64_t i = 0; i < 8; ++i) {
      if (i == static_cast<uint64_t>(round % 8)) go.Notify();
      all.push_back(context.DispatchAsync(kRecord, Record(0, i), options));
      context.Dispatch<EchoReply>(kEcho, Echo(""), options)
          .Then([&](const absl::StatusOr<EchoReply>& reply) {
            EXPECT_TRUE(reply.ok() || absl::IsCancelled(reply.status())) << reply.status();
            ++ended;
          });
    }
    const absl::Status status = WaitAll(all);
    EXPECT_TRUE(status.ok() || absl::IsCancelled(status)) << status;
    stopper.join();
    blocking.join();
  }
  while (ended < kRounds * 8) std::this_thread::yield();
  const Ledger::Counts ledger = runtime_->GetSnapshot().ledger;
  EXPECT_EQ(ledger.admitted, ledger.ended() + ledger.queued + ledger.running + ledger.deferred);
}

}  // namespace
}  // namespace runloop

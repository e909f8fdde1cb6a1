// Callbacks on executors, coroutines and waits for several, over every way to a runtime.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "runloop/runtime/executor.h"
#include "runloop/runtime/pending.h"
#include "runloop/runtime/wait.h"
#include "runloop/tests/contract/fixture.h"
#include "runloop/tests/testing/task.h"

namespace runloop {
namespace {

using test::v1::EchoReply;
using test::v1::FailRequest;
using test::v1::RecordReply;
using testing::ElementsAre;
using testing::Pair;

class ConveniencesTest : public ContractTest {};

INSTANTIATE_TEST_SUITE_P(, ConveniencesTest, testing::ValuesIn(kPaths), PathName);

FailRequest Fail(absl::StatusCode code) {
  FailRequest request;
  request.set_code(static_cast<int>(code));
  return request;
}

TEST_P(ConveniencesTest, ACallbackRunsWhereItsExecutorSaysAlsoIfTheOutcomeIsKnown) {
  Start();
  const RuntimeContext context = Context();
  ManualExecutor here;
  const Invocation echo = context.DispatchAsync(kEcho, Echo("a"));
  std::vector<std::thread::id> ran_on;
  const auto callback = [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok()) << status;
    ran_on.push_back(std::this_thread::get_id());
  };
  echo.Watch(here.executor(), callback);
  here.RunOne();
  echo.Watch(here.executor(), callback);
  EXPECT_EQ(ran_on.size(), 1u);
  here.RunOne();
  EXPECT_THAT(ran_on, ElementsAre(std::this_thread::get_id(), std::this_thread::get_id()));
}

TEST_P(ConveniencesTest, ACallbackGetsTheReply) {
  Start();
  const RuntimeContext context = Context();
  ManualExecutor here;
  std::string text;
  context.Dispatch<EchoReply>(kEcho, Echo("hello"))
      .On(here.executor())
      .Then([&](absl::StatusOr<EchoReply> reply) { text = reply.ok() ? reply->text() : "error"; });
  here.RunOne();
  EXPECT_EQ(text, "hello");
  absl::Notification told;
  context.Dispatch(kFail, Fail(absl::StatusCode::kNotFound)).Then([&](const absl::Status& status) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    told.Notify();
  });
  told.WaitForNotification();
}

TEST_P(ConveniencesTest, ACoroutineGetsTheReplyOnItsExecutor) {
  Start();
  const RuntimeContext context = Context();
  ManualExecutor here;
  std::vector<std::string> got;
  const TestTask task = [](const RuntimeContext& to, ManualExecutor& on,
                           std::vector<std::string>& texts) -> TestTask {
    const std::thread::id thread = std::this_thread::get_id();
    for (const char* const text : {"one", "two"}) {
      const absl::StatusOr<EchoReply> reply =
          co_await to.Dispatch<EchoReply>(kEcho, Echo(text)).On(on.executor());
      EXPECT_EQ(std::this_thread::get_id(), thread);
      texts.push_back(reply.ok() ? reply->text() : reply.status().ToString());
    }
    const absl::Status failed =
        co_await to.Dispatch(kFail, Fail(absl::StatusCode::kNotFound)).On(on.executor());
    texts.push_back(absl::StatusCodeToString(failed.code()));
  }(context, here, got);
  // Some may be known at once.
  while (!task.ended()) here.RunOne();
  EXPECT_THAT(got, ElementsAre("one", "two", "NOT_FOUND"));
  EXPECT_TRUE(here.idle());
}

TEST_P(ConveniencesTest, WithoutAnExecutorACoroutineGoesOnWhereTheOutcomeIsLearnt) {
  Start();
  const RuntimeContext context = Context();
  constexpr int kCalls = 1'000;
  std::vector<TestTask> tasks;
  std::atomic<int> replies{0};
  for (int i = 0; i < 4; ++i) {
    tasks.push_back([](const RuntimeContext& to, std::atomic<int>& count) -> TestTask {
      for (int call = 0; call < kCalls; ++call) {
        const absl::StatusOr<EchoReply> reply =
            co_await to.Dispatch<EchoReply>(kEcho, Echo("again"));
        if (reply.ok()) ++count;
      }
    }(context, replies));
  }
  for (const TestTask& task : tasks) task.AwaitEnd();
  EXPECT_EQ(replies, 4 * kCalls);
}

TEST_P(ConveniencesTest, ACoroutineThatAwaitsWhatIsDoneDoesNotSuspend) {
  Start();
  const Invocation echo = Context().DispatchAsync(kEcho, Echo("a"));
  ASSERT_TRUE(echo.Await().ok());
  const TestTask task = [](const Invocation& done) -> TestTask {
    EXPECT_TRUE((co_await done).ok());
    EXPECT_TRUE((co_await Pending<void>(done).On([](auto) { FAIL(); })).ok());
  }(echo);
  EXPECT_TRUE(task.ended());
}

TEST_P(ConveniencesTest, WhatCoroutinesDispatchStartsInTheOrderOfTheCallsNotOfTheAwaits) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  const TestTask task = [](const RuntimeContext& to) -> TestTask {
    Pending<RecordReply> first = to.Dispatch<RecordReply>(kRecord, Record(0, 1));
    Pending<RecordReply> second = to.Dispatch<RecordReply>(kRecord, Record(0, 2));
    to.DispatchAsync(kRecord, Record(0, 3));
    EXPECT_EQ((co_await std::move(second))->position(), 1u);
    EXPECT_EQ((co_await std::move(first))->position(), 0u);
  }(context);
  operations_->LetGo();
  task.AwaitEnd();
  operations_->AwaitRecorded(3);
  EXPECT_THAT(operations_->record(), ElementsAre(Pair(0, 1), Pair(0, 2), Pair(0, 3)));
}

TEST_P(ConveniencesTest, ACoroutineThatIsDestroyedIsNotResumedAndItsDispatchGoesOn) {
  Start();
  const RuntimeContext context = Context();
  ManualExecutor here;
  bool resumed = false;
  const auto record = [](const RuntimeContext& to, ManualExecutor& on, bool& was) -> TestTask {
    (void)co_await to.Dispatch<RecordReply>(kRecord, Record(0, 0)).On(on.executor());
    was = true;
  };
  const Invocation hold = Hold(context);
  // One before its outcome, one between the outcome and its turn on the executor.
  { const TestTask early = record(context, here, resumed); }
  std::optional<TestTask> late;
  late.emplace(record(context, here, resumed));
  operations_->LetGo();
  operations_->AwaitRecorded(2);
  here.RunOne();
  here.AwaitWork();
  late.reset();
  here.RunOne();
  EXPECT_FALSE(resumed);
}

TEST_P(ConveniencesTest, WaitAllWaitsForAllAndGivesTheFirstErrorInTheOrderGiven) {
  Start();
  const RuntimeContext context = Context();
  EXPECT_TRUE(WaitAll({}).ok());
  std::vector<Invocation> all;
  for (uint64_t i = 0; i < 100; ++i) all.push_back(context.DispatchAsync(kRecord, Record(0, i)));
  EXPECT_TRUE(WaitAll(all).ok());
  const Invocation hold = Hold(context);
  const Invocation not_found = context.DispatchAsync(kFail, Fail(absl::StatusCode::kNotFound));
  const Invocation aborted = context.DispatchAsync(kFail, Fail(absl::StatusCode::kAborted));
  const absl::Status late = WaitAll({all[0], hold, aborted}, absl::Milliseconds(1));
  EXPECT_EQ(ReasonOf(late), v1::ERROR_REASON_STILL_RUNNING) << late;
  EXPECT_THAT(std::string(late.message()), testing::HasSubstr("2 of 3"));
  operations_->LetGo();
  EXPECT_EQ(WaitAll({hold, aborted, not_found}).code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(not_found.done());
}

TEST_P(ConveniencesTest, WaitAnyTellsOneThatIsDone) {
  Start();
  const RuntimeContext context = Context();
  const Invocation echo = context.DispatchAsync(kEcho, Echo("a"));
  EXPECT_EQ(*WaitAny({echo}), 0u);
  const Invocation hold = Hold(context);
  const Invocation first = context.DispatchAsync(kRecord, Record(0, 0));
  const Invocation second = context.DispatchAsync(kRecord, Record(0, 1));
  const absl::Status late = WaitAny({hold, first, second}, absl::Milliseconds(1)).status();
  EXPECT_EQ(ReasonOf(late), v1::ERROR_REASON_STILL_RUNNING) << late;
  EXPECT_EQ(*WaitAny({hold, echo}), 1u);
  std::thread canceller([&] { second.Cancel(); });
  EXPECT_EQ(*WaitAny({hold, first, second}), 2u);
  canceller.join();
  operations_->LetGo();
  EXPECT_LE(*WaitAny({first, hold}), 1u);
  EXPECT_TRUE(absl::IsInvalidArgument(WaitAny({}).status()));
}

TEST_P(ConveniencesTest, WaitAnyTakesEachInItsTurnWhileOtherThreadsAwait) {
  Start();
  const RuntimeContext context = Context();
  std::vector<std::thread> threads;
  std::atomic<uint64_t> taken{0};
  constexpr uint64_t kRounds = 20, kEach = 20;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t round = 0; round < kRounds; ++round) {
        std::vector<Invocation> left;
        for (uint64_t i = 0; i < kEach; ++i) {
          left.push_back(context.DispatchAsync(kRecord, Record(t, i)));
        }
        while (!left.empty()) {
          if (t % 2 == 0) {
            const absl::StatusOr<size_t> next = WaitAny(left);
            ASSERT_TRUE(next.ok()) << next.status();
            ASSERT_TRUE(left[*next].done());
            left.erase(left.begin() + *next);
          } else {
            ASSERT_TRUE(left.back().Await().ok());
            left.pop_back();
          }
          ++taken;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(taken, 4 * kRounds * kEach);
}

TEST_P(ConveniencesTest, WaitingWhereAnAwaitWouldNeverEndIsRefused) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  const Invocation queued = context.DispatchAsync(kRecord, Record(0, 0));
  absl::Notification told;
  hold.Watch([&](const absl::Status&) {
    // On the thread that has to run `queued`, or to bring its outcome.
    if (!queued.done()) {
      EXPECT_TRUE(absl::IsFailedPrecondition(WaitAny({queued}).status()));
      EXPECT_TRUE(absl::IsFailedPrecondition(WaitAll({hold, queued})));
    }
    EXPECT_EQ(*WaitAny({hold}), 0u);
    EXPECT_TRUE(WaitAll({hold}).ok());
    told.Notify();
  });
  operations_->LetGo();
  told.WaitForNotification();
  EXPECT_TRUE(queued.Await().ok());
}

}  // namespace
}  // namespace runloop

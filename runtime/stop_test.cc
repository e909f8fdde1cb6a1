// How a runtime ends: a drain, a stop, and what comes later.

#include <gtest/gtest.h>

#include <thread>

#include "runloop/runtime/error.h"
#include "runloop/runtime/external_loop.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/spawn.h"
#include "runloop/tests/testing/test_operations.h"

namespace runloop {
namespace {

TEST(AStoppedRuntime, AnswersUnavailableToEveryCallAndNeverHangs) {
  auto runtime = Spawn();
  const LocalRuntimeContext context = runtime->context();
  runtime.reset();
  const absl::Status async = context.RunOnRuntimeThreadAsync([] {});
  EXPECT_EQ(async.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(async), v1::ERROR_REASON_RUNTIME_STOPPED);
  EXPECT_EQ(context.RunOnRuntimeThreadBlocking([] { return 1; }).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(AStoppedRuntime, ReleasesACallerThatWaitsAndDestroysWhatNeverRan) {
  auto runtime = *Runtime::Create({});
  const LocalRuntimeContext context = runtime->context();
  auto captured = std::make_shared<int>(1);
  ASSERT_TRUE(context.RunOnRuntimeThreadAsync([captured] {}).ok());
  std::thread caller([&] {
    EXPECT_EQ(context.RunOnRuntimeThreadBlocking([] { return 1; }).status().code(),
              absl::StatusCode::kUnavailable);
  });
  while (runtime->GetSnapshot().ledger.queued < 2) std::this_thread::yield();
  runtime.reset();
  caller.join();
  EXPECT_EQ(captured.use_count(), 1);
}

TEST(AStoppedRuntime, LosesNoClosureOfThreadsThatPostWhileItStops) {
  for (int round = 0; round < 20; ++round) {
    auto runtime = Spawn();
    const LocalRuntimeContext context = runtime->context();
    auto captured = std::make_shared<int>(0);
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([context, captured] {
        while (context.RunOnRuntimeThreadAsync([captured] {}).ok()) {
        }
      });
    }
    while (runtime->GetSnapshot().ledger.succeeded < 100) std::this_thread::yield();
    runtime.reset();
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(captured.use_count(), 1);
  }
}

TEST(Drain, RunsWhatIsQueuedAndThenStops) {
  auto runtime = *Runtime::Create({});
  const LocalRuntimeContext context = runtime->context();
  int ran = 0;
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(context.RunOnRuntimeThreadAsync([&] { ++ran; }).ok());
  const Runtime::DrainResult result = runtime->Drain(absl::Seconds(30));
  EXPECT_TRUE(result.drained);
  EXPECT_EQ(ran, 100);
  EXPECT_EQ(result.ledger.succeeded, 100u);
  EXPECT_EQ(context.RunOnRuntimeThreadAsync([] {}).code(), absl::StatusCode::kUnavailable);
}

TEST(Drain, RunsWhatAWorkerNeedsTheThreadForToFinish) {
  OperationRegistry registry;
  const auto operations = TestOperations::Register(registry);
  auto runtime = *Runtime::Create({.operations = std::move(registry)});
  const LocalRuntimeContext context = runtime->context();
  const Invocation deferred =
      context.AsRuntimeContext().DispatchAsync(kDefer, test::v1::DeferRequest());
  std::thread worker([&] {
    Completion<test::v1::DeferReply> completion = operations->TakeDeferred();
    while (!runtime->GetSnapshot().draining) std::this_thread::yield();
    EXPECT_TRUE(context.RunOnRuntimeThreadBlocking([] {}).ok());
    completion.Finish(test::v1::DeferReply());
  });
  EXPECT_TRUE(runtime->Drain(absl::Seconds(30)).drained);
  EXPECT_TRUE(deferred.Await().ok());
  worker.join();
}

TEST(Drain, OfALoopThatSomebodyElseRunsRunsWhatIsQueued) {
  auto runtime = *Runtime::Create({.loop = std::make_unique<ExternalLoop>()});
  bool ran = false;
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([&] { ran = true; }).ok());
  EXPECT_TRUE(runtime->Drain(absl::Seconds(30)).drained);
  EXPECT_TRUE(ran);
}

TEST(Drain, OfASpawnedRuntimeThatWasStoppedRunsWhatIsQueued) {
  auto runtime = Spawn();
  runtime->Stop();
  bool ran = false;
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([&] { ran = true; }).ok());
  EXPECT_TRUE(runtime->Drain(absl::Seconds(30)).drained);
  EXPECT_TRUE(ran);
}

TEST(Drain, OfASpawnedRuntimeHappensOnItsThread) {
  auto runtime = Spawn();
  const LocalRuntimeContext context = runtime->context();
  std::thread::id ran_on;
  ASSERT_TRUE(context.RunOnRuntimeThreadAsync([&] { ran_on = std::this_thread::get_id(); }).ok());
  const Runtime::DrainResult result = runtime->Drain(absl::Seconds(30));
  EXPECT_TRUE(result.drained);
  EXPECT_NE(ran_on, std::thread::id());
  EXPECT_NE(ran_on, std::this_thread::get_id());
}

TEST(AStoppedRuntime, DestroysItsHandlersAndTheCompletionsThatTheyKept) {
  auto kept = std::make_shared<std::vector<Completion<test::v1::DeferReply>>>();
  OperationRegistry operations;
  ASSERT_TRUE((operations.RegisterDeferred<test::v1::DeferRequest, test::v1::DeferReply>(
                   kDefer,
                   [kept](OperationContext&, test::v1::DeferRequest,
                          Completion<test::v1::DeferReply> completion) {
                     kept->push_back(std::move(completion));
                   }))
                  .ok());
  auto runtime = Spawn({.operations = std::move(operations)});
  const Invocation deferred =
      runtime->context().AsRuntimeContext().DispatchAsync(kDefer, test::v1::DeferRequest());
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadBlocking([] {}).ok());
  const std::weak_ptr<void> handler_state = kept;
  kept.reset();
  runtime.reset();
  EXPECT_EQ(deferred.Await().code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(handler_state.expired());
}

TEST(AStoppedRuntime, DestroysAtOnceWhatALateCompletionMakes) {
  // Takes more time to close than there is, and is counted.
  struct Slow {
    explicit Slow(int& alive) : alive(alive) { ++alive; }
    ~Slow() { --alive; }
    void Close(Closing closing) { kept.emplace(std::move(closing)); }
    int& alive;
    std::optional<Closing> kept;
  };
  int alive = 0;
  std::optional<Completion<test::v1::DeferReply>> late;
  OperationRegistry operations;
  ASSERT_TRUE((operations.RegisterDeferred<test::v1::DeferRequest, test::v1::DeferReply>(
                   kDefer,
                   [&](OperationContext& context, const test::v1::DeferRequest&,
                       Completion<test::v1::DeferReply> completion) {
                     EXPECT_TRUE(context.Keep(std::make_unique<Slow>(alive)).ok());
                     late.emplace(std::move(completion));
                   }))
                  .ok());
  auto runtime = *Runtime::Create(
      {.loop = std::make_unique<ExternalLoop>(), .operations = std::move(operations)});
  const Invocation deferred =
      runtime->context().AsRuntimeContext().DispatchAsync(kDefer, test::v1::DeferRequest());
  EXPECT_EQ(runtime->Drain(absl::Seconds(30)).not_closed, 1u);
  EXPECT_EQ(alive, 0);
  EXPECT_EQ(late->Keep(std::make_unique<Slow>(alive)).status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(alive, 0);
}

}  // namespace
}  // namespace runloop

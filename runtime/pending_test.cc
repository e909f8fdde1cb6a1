#include "runloop/runtime/pending.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "runloop/runtime/runtime_context.h"
#include "runloop/tests/testing/task.h"

namespace runloop {
namespace {

using internal::DispatchTarget;
using internal::InvocationState;

constexpr int kRounds = 1000;

TestTask Count(std::shared_ptr<InvocationState> state, Executor executor, int& outcomes) {
  const absl::Status status = co_await Pending<void>(std::move(state)).On(std::move(executor));
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  ++outcomes;
}

TEST(PendingTest, AnExecutorMayRunInPlace) {
  const auto state = std::make_shared<InvocationState>();
  int outcomes = 0;
  const TestTask task = Count(
      state, [](absl::AnyInvocable<void() &&> work) { std::move(work)(); }, outcomes);
  EXPECT_FALSE(task.ended());
  state->Finish(absl::AbortedError(""));
  EXPECT_TRUE(task.ended());
  EXPECT_EQ(outcomes, 1);
}

TEST(PendingTest, AnExecutorThatDropsItsWorkLeavesTheCoroutineToItsOwner) {
  const auto state = std::make_shared<InvocationState>();
  int outcomes = 0;
  {
    const TestTask task = Count(
        state, [](absl::AnyInvocable<void() &&>) {}, outcomes);
    state->Finish(absl::AbortedError(""));
    EXPECT_FALSE(task.ended());
  }
  EXPECT_EQ(outcomes, 0);
}

TEST(PendingTest, AnExecutorThatDropsItsWorkDestroysCallbacksUncalled) {
  const Executor drops = [](absl::AnyInvocable<void() &&>) {};
  const auto captured = std::make_shared<int>();
  for (const bool known : {false, true}) {
    const auto state = std::make_shared<InvocationState>();
    if (known) state->Finish(absl::AbortedError(""));
    Pending<void>(state).On(drops).Then(
        [captured](const absl::Status&) { ADD_FAILURE() << "it was dropped"; });
    const Invocation invocation(state);
    invocation.Watch(drops, [captured](const absl::Status&) { ADD_FAILURE() << "and so was it"; });
    if (!known) state->Finish(absl::AbortedError(""));
    EXPECT_EQ(captured.use_count(), 1);
    EXPECT_TRUE(absl::IsAborted(invocation.Await()));
  }
}

TEST(PendingTest, TheOutcomeThatComesAsTheCoroutineSuspendsResumesItOnce) {
  for (const bool on_executor : {false, true}) {
    for (int round = 0; round < kRounds; ++round) {
      const auto state = std::make_shared<InvocationState>();
      int outcomes = 0;
      ManualExecutor executor;
      std::atomic<int> ready{0};
      std::thread finisher([&] {
        ++ready;
        while (ready < 2) std::this_thread::yield();
        state->Finish(absl::AbortedError(""));
      });
      ++ready;
      while (ready < 2) std::this_thread::yield();
      const TestTask task =
          Count(state, on_executor ? executor.executor() : Executor(nullptr), outcomes);
      if (on_executor && !task.ended()) executor.RunOne();
      task.AwaitEnd();
      finisher.join();
      EXPECT_EQ(outcomes, 1);
      EXPECT_TRUE(executor.idle());
    }
  }
}

TEST(PendingTest, DestroyedBeforeTheOutcomeItIsNotResumed) {
  const auto state = std::make_shared<InvocationState>();
  int outcomes = 0;
  ManualExecutor executor;
  std::optional<TestTask> early(Count(state, executor.executor(), outcomes));
  std::optional<TestTask> late(Count(state, executor.executor(), outcomes));
  std::optional<TestTask> without(Count(state, nullptr, outcomes));
  early.reset();
  without.reset();
  state->Finish(absl::AbortedError(""));
  late.reset();
  executor.RunOne();
  executor.RunOne();
  EXPECT_EQ(outcomes, 0);
}

// What a stop token is asked to do, and nothing else of a transport.
class Target final : public DispatchTarget {
 public:
  class Invocation final : public InvocationState {
   public:
    void Cancel() override { asked.push_back("cancel"); }
    void Stop() override { asked.push_back("stop"); }
    std::vector<std::string> asked;
  };

  std::shared_ptr<InvocationState> Dispatch(Call) override { return invocation; }
  absl::StatusOr<internal::Reply> DispatchBlocking(Call) override { return absl::UnknownError(""); }
  std::vector<std::shared_ptr<InvocationState>> DispatchBatch(std::vector<Call>, bool) override {
    return {invocation};
  }
  absl::StatusOr<Buffer> NewBuffer(size_t) override { return absl::UnknownError(""); }
  absl::StatusOr<Buffer> OpenBuffer(v1::BufferRef) override { return absl::UnknownError(""); }
  absl::Status Grant(const Buffer&, const std::string&, BufferAccess) override {
    return absl::UnknownError("");
  }
  absl::StatusOr<uint64_t> SendDescriptor(int) override { return absl::UnknownError(""); }
  std::string SessionId() override { return ""; }
  absl::StatusOr<std::shared_ptr<internal::SubscriptionState>> Subscribe(
      internal::SubscriptionState::Call) override {
    return absl::UnimplementedError("");
  }

  const std::shared_ptr<Invocation> invocation = std::make_shared<Invocation>();
};

TEST(StopTest, ARequestReachesWhatIsNotDoneAndNothingElse) {
  for (const auto means :
       {DispatchTarget::WhenStopped::kCancel, DispatchTarget::WhenStopped::kStop}) {
    for (const bool done_before : {false, true}) {
      Target target;
      std::stop_source source;
      (void)target.DispatchUntilStopped({}, source.get_token(), means);
      if (done_before) target.invocation->Finish(absl::AbortedError(""));
      source.request_stop();
      std::vector<std::string> asked;
      if (!done_before) {
        asked.push_back(means == DispatchTarget::WhenStopped::kCancel ? "cancel" : "stop");
      }
      EXPECT_EQ(target.invocation->asked, asked);
      target.invocation->Finish(absl::AbortedError(""));
    }
  }
}

// Nothing that was registered keeps the invocation, or outlives it.
TEST(StopTest, AnInvocationThatIsDroppedTakesItsRegistrationAlong) {
  std::stop_source source;
  std::weak_ptr<InvocationState> weak;
  {
    Target target;
    weak = target.DispatchUntilStopped({}, source.get_token(), DispatchTarget::WhenStopped::kStop);
    EXPECT_FALSE(weak.expired());
  }
  EXPECT_TRUE(weak.expired());
  source.request_stop();
}

}  // namespace
}  // namespace runloop

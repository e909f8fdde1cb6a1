// Priorities of sessions and contexts, in process, by the stream and by the ring.

#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <functional>
#include <vector>

#include "runloop/runtime/wait.h"
#include "runloop/tests/contract/fixture.h"

namespace runloop {
namespace {

using Item = TestOperations::Item;

constexpr Priority kAll[] = {Priority::kInteractive, Priority::kDefault, Priority::kBackground};

class PriorityTest : public ContractTest {
 protected:
  RuntimeContext ContextOf(Priority priority) {
    if (GetParam() == Path::kLocal) {
      return runtime_->context().WithPriority(priority).AsRuntimeContext("contract");
    }
    const absl::StatusOr<RuntimeContext> context = Connect({.address = directory_ + "/other-name",
                                                            .client_name = "contract",
                                                            .priority = priority,
                                                            .ring = GetParam() == Path::kRing});
    if (!context.ok()) throw std::runtime_error(context.status().ToString());
    AwaitTransport(GetParam() == Path::kRing ? "ring" : "stream");
    return *context;
  }

  // Waits until all that the context has dispatched is queued: what is cancelled was taken in
  // behind it.
  static void AwaitQueued(const RuntimeContext& context) {
    const Invocation last = context.DispatchAsync(kRecord, Record(99, 0));
    last.Cancel();
    ASSERT_EQ(ReasonOf(last.Await(absl::InfiniteDuration())), v1::ERROR_REASON_CANCELLED);
  }

  // How many of each producer are among the first `count`.
  std::array<int, kPriorities> Among(size_t count) const {
    std::array<int, kPriorities> among{};
    const std::vector<Item> record = operations_->record();
    for (size_t i = 0; i < count; ++i) ++among[record[i].first];
    return among;
  }
};

// The whole way: each of three workers floods, and what each is promised can be counted in the
// order in which their operations started.
TEST_P(PriorityTest, WithAFloodInEachTheUrgentComeFirstAndNothingStarves) {
  Start();
  constexpr uint64_t kEach = 600;
  std::vector<RuntimeContext> contexts;
  for (const Priority priority : kAll) contexts.push_back(ContextOf(priority));
  // The least urgent ones first, so that the order is not that of the dispatches.
  const Invocation hold = Hold(contexts[1]);
  std::vector<Invocation> invocations;
  for (int level = kPriorities - 1; level >= 0; --level) {
    for (uint64_t i = 0; i < kEach; ++i) {
      invocations.push_back(contexts[static_cast<size_t>(level)].DispatchAsync(
          kRecord, Record(static_cast<uint32_t>(level), i)));
    }
  }
  for (const RuntimeContext& context : contexts) AwaitQueued(context);
  operations_->LetGo();
  ASSERT_TRUE(WaitAll(invocations, absl::InfiniteDuration()).ok());
  ASSERT_TRUE(hold.Await(absl::InfiniteDuration()).ok());

  const std::vector<Item> record = operations_->record();
  ASSERT_EQ(record.size(), kPriorities * kEach);
  std::array<uint64_t, kPriorities> next{};
  std::array<size_t, kPriorities> passed_by{};
  constexpr std::array<size_t, kPriorities> kMostPassedBy = {0, 7, 63};  // by more urgent ones
  for (const auto& [level, index] : record) {
    ASSERT_EQ(index, next[level]++);  // each session's order stays
    passed_by[level] = 0;
    for (size_t lower = level + 1; lower < kPriorities; ++lower) {
      if (next[lower] == kEach) continue;
      ASSERT_LE(++passed_by[lower], kMostPassedBy[lower]);
    }
  }
  // While all three wait, most of the thread is for the urgent ones.
  const auto among = Among(640);
  EXPECT_GE(among[0], 540);
  EXPECT_GE(among[1], 70);
  EXPECT_EQ(among[2], 10);
}

TEST_P(PriorityTest, ALoneUrgentOneWaitsForNoFlood) {
  Start();
  const RuntimeContext flood = ContextOf(Priority::kBackground);
  const RuntimeContext urgent = ContextOf(Priority::kInteractive);
  const Invocation hold = Hold(flood);
  std::vector<Invocation> invocations;
  for (uint64_t i = 0; i < 500; ++i) {
    invocations.push_back(flood.DispatchAsync(kRecord, Record(2, i)));
  }
  const Invocation first = urgent.DispatchAsync(kRecord, Record(0, 0));
  AwaitQueued(flood);
  AwaitQueued(urgent);
  operations_->LetGo();
  ASSERT_TRUE(first.Await(absl::InfiniteDuration()).ok());
  ASSERT_TRUE(WaitAll(invocations, absl::InfiniteDuration()).ok());
  EXPECT_EQ(operations_->record().front(), Item(0, 0));
}

TEST_P(PriorityTest, ABatchIsNotSplitByWhatIsMoreUrgent) {
  Start();
  const RuntimeContext background = ContextOf(Priority::kBackground);
  const RuntimeContext urgent = ContextOf(Priority::kInteractive);
  Batch batch;
  batch.Add(kHold, test::v1::HoldRequest());
  for (uint64_t i = 0; i < 50; ++i) batch.Add(kRecord, Record(2, i));
  const std::vector<Invocation> invocations = background.DispatchBatch(std::move(batch));
  operations_->AwaitHeld();  // the batch has begun
  const Invocation late = urgent.DispatchAsync(kRecord, Record(0, 0));
  AwaitQueued(urgent);
  operations_->LetGo();
  ASSERT_TRUE(WaitAll(invocations, absl::InfiniteDuration()).ok());
  ASSERT_TRUE(late.Await(absl::InfiniteDuration()).ok());
  EXPECT_EQ(operations_->record().back(), Item(0, 0));
}

INSTANTIATE_TEST_SUITE_P(Paths, PriorityTest, testing::ValuesIn(kPaths), PathName);

// What only the host's own code has.
class LocalPriorityTest : public ContractTest {};

TEST_P(LocalPriorityTest, ClosuresHaveTheirContextsPriority) {
  Start();
  const LocalRuntimeContext local = runtime_->context();
  std::vector<int> order;  // the runtime thread's
  const Invocation hold = Hold(local.AsRuntimeContext());
  // More than are taken out of the line at a time.
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(local.RunOnRuntimeThreadAsync([&order] { order.push_back(1); }).ok());
  }
  const LocalRuntimeContext background = local.WithPriority(Priority::kBackground);
  ASSERT_TRUE(background.RunOnRuntimeThreadAsync([&order] { order.push_back(2); }).ok());
  EXPECT_EQ(background.priority(), Priority::kBackground);
  const LocalRuntimeContext urgent = local.WithPriority(Priority::kInteractive);
  ASSERT_TRUE(urgent
                  .RunOnRuntimeThreadAsync([&] {
                    order.push_back(0);
                    // While closures run, it still comes before the next one.
                    ASSERT_TRUE(local.WithPriority(Priority::kInteractive)
                                    .RunOnRuntimeThreadAsync([&order] { order.push_back(0); })
                                    .ok());
                  })
                  .ok());
  operations_->LetGo();
  ASSERT_TRUE(background.RunOnRuntimeThreadBlocking([] {}).ok());
  ASSERT_TRUE(local.RunOnRuntimeThreadBlocking([] {}).ok());
  ASSERT_TRUE(hold.Await(absl::InfiniteDuration()).ok());
  ASSERT_EQ(order.size(), 103u);
  EXPECT_EQ(order[0], 0);
  EXPECT_EQ(order[1], 0);
  const auto at = std::find(order.begin(), order.end(), 2) - order.begin();
  EXPECT_EQ(at, 63);  // one of 64
}

// A closure in the middle of others that were taken out of the line with it.
TEST_P(LocalPriorityTest, AnUrgentClosureWaitsForNoOthersThatWereTakenBefore) {
  Start();
  const LocalRuntimeContext local = runtime_->context();
  std::vector<int> order;
  const Invocation hold = Hold(local.AsRuntimeContext());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(local
                    .RunOnRuntimeThreadAsync([&order, &local, i] {
                      order.push_back(1);
                      if (i != 4) return;
                      ASSERT_TRUE(local.WithPriority(Priority::kInteractive)
                                      .RunOnRuntimeThreadAsync([&order] { order.push_back(0); })
                                      .ok());
                    })
                    .ok());
  }
  operations_->LetGo();
  ASSERT_TRUE(local.RunOnRuntimeThreadBlocking([] {}).ok());
  ASSERT_TRUE(hold.Await(absl::InfiniteDuration()).ok());
  ASSERT_EQ(order.size(), 21u);
  EXPECT_EQ(order[5], 0);
}

// Each urgent one brings the next, so that one always waits.
TEST_P(LocalPriorityTest, ClosuresThatWereTakenHaveTheirTurnBesideUrgentOnesWithoutEnd) {
  Start();
  const LocalRuntimeContext local = runtime_->context();
  const LocalRuntimeContext urgent = local.WithPriority(Priority::kInteractive);
  std::vector<int> order;
  bool over = false;
  std::function<void()> next = [&] {
    order.push_back(0);
    if (over) return;
    ASSERT_TRUE(urgent.RunOnRuntimeThreadAsync([&next] { next(); }).ok());
  };
  const Invocation hold = Hold(local.AsRuntimeContext());
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(local
                    .RunOnRuntimeThreadAsync([&, i] {
                      order.push_back(1);
                      if (i == 0) next();
                      if (i == 4) over = true;
                    })
                    .ok());
  }
  operations_->LetGo();
  ASSERT_TRUE(local.RunOnRuntimeThreadBlocking([] {}).ok());
  ASSERT_TRUE(hold.Await(absl::InfiniteDuration()).ok());
  ASSERT_EQ(std::count(order.begin(), order.end(), 1), 5);
  const auto last = std::find(order.rbegin(), order.rend(), 1).base() - order.begin();
  EXPECT_EQ(last, 1 + 1 + 4 * 8);  // of eight one is not urgent; one more ran in place
}

TEST_P(LocalPriorityTest, AnUrgentTimerComesBetweenClosuresThatWereTaken) {
  Start();
  const LocalRuntimeContext local = runtime_->context();
  std::vector<int> order;
  const Invocation hold = Hold(local.AsRuntimeContext());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(local
                    .RunOnRuntimeThreadAsync([&, i] {
                      order.push_back(1);
                      if (i != 0) return;
                      ASSERT_TRUE(local.WithPriority(Priority::kInteractive)
                                      .RunAfter(absl::Nanoseconds(1), [&] { order.push_back(0); })
                                      .ok());
                      // It is due when this ends.
                      const absl::Time begin = Clock::Monotonic()->Now();
                      while (Clock::Monotonic()->Now() < begin + absl::Milliseconds(3)) {
                      }
                    })
                    .ok());
  }
  operations_->LetGo();
  ASSERT_TRUE(local.RunOnRuntimeThreadBlocking([] {}).ok());
  ASSERT_TRUE(hold.Await(absl::InfiniteDuration()).ok());
  ASSERT_EQ(order.size(), 21u);
  EXPECT_EQ(order[1], 0);
}

TEST_P(LocalPriorityTest, AClosureThatThrowsIsCountedAsAnyOther) {
  Start();
  const LocalRuntimeContext urgent = runtime_->context().WithPriority(Priority::kInteractive);
  ASSERT_TRUE(urgent.RunOnRuntimeThreadAsync([] { throw std::runtime_error("as it is to"); }).ok());
  ASSERT_TRUE(urgent.RunOnRuntimeThreadBlocking([] {}).ok());
  EXPECT_EQ(runtime_->GetSnapshot().ledger.failed, 1u);
}

TEST_P(LocalPriorityTest, AnUrgentClosureIsDestroyedUnrunIfTheRuntimeEndsFirst) {
  Start(RuntimeThread::kBind);
  const auto held = std::make_shared<int>(1);
  ASSERT_TRUE(runtime_->context()
                  .WithPriority(Priority::kInteractive)
                  .RunOnRuntimeThreadAsync([held] { FAIL(); })
                  .ok());
  EXPECT_EQ(held.use_count(), 2);
  runtime_.reset();
  EXPECT_EQ(held.use_count(), 1);
}

INSTANTIATE_TEST_SUITE_P(Paths, LocalPriorityTest, testing::Values(Path::kLocal), PathName);

}  // namespace
}  // namespace runloop

// What runs later: closures of timers and delayed operations, on a clock that the test moves.

#include "runloop/runtime/timer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>
#include <vector>

#include "runloop/runtime/error.h"
#include "runloop/runtime/external_loop.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/fake_clock.h"
#include "runloop/tests/testing/remote_session.h"

namespace runloop {
namespace {

using test::v1::EchoReply;
using test::v1::EchoRequest;
using test::v1::RecordRequest;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr absl::Duration kMs = absl::Milliseconds(1);

class TimerTest : public testing::Test {
 protected:
  void Start(RuntimeOptions options = {}) {
    auto loop = std::make_unique<ExternalLoop>();
    loop_ = loop.get();
    options.loop = std::move(loop);
    options.clock = &clock_;
    options.log = [this](LogSeverity, std::string_view line) { log_.append(line); };
    operations_ = TestOperations::Register(options.operations);
    runtime_ = *Runtime::Create(std::move(options));
  }
  void SetUp() override { Start(); }

  LocalRuntimeContext context() { return runtime_->context(); }
  Ledger::Counts ledger() { return runtime_->GetSnapshot().ledger; }

  void Turn() {
    while (loop_->Drain()) {
    }
  }
  void Pass(absl::Duration by) {
    clock_.Advance(by);
    Turn();
  }
  // Its closure adds `number` to ran_.
  Timer After(absl::Duration delay, int number) {
    return *context().RunAfter(delay, [this, number] { ran_.push_back(number); });
  }
  // On a thread that is not the runtime's.
  static bool CancelElsewhere(const Timer& timer) {
    bool cancelled = false;
    std::thread([&] { cancelled = timer.Cancel(); }).join();
    return cancelled;
  }
  static RecordRequest Record(uint64_t index) {
    RecordRequest request;
    request.set_index(index);
    return request;
  }

  std::string log_;
  FakeClock clock_;
  std::shared_ptr<TestOperations> operations_;
  ExternalLoop* loop_ = nullptr;
  std::vector<int> ran_;
  std::unique_ptr<Runtime> runtime_;
};

TEST_F(TimerTest, RunsWhatIsDueAndNothingEarlierInTheOrderOfTheirTimes) {
  After(30 * kMs, 3);
  After(10 * kMs, 1);
  After(20 * kMs, 2);
  Turn();
  Pass(9 * kMs);
  EXPECT_THAT(ran_, IsEmpty());
  Pass(1 * kMs);
  EXPECT_THAT(ran_, ElementsAre(1));
  Pass(50 * kMs);
  EXPECT_THAT(ran_, ElementsAre(1, 2, 3));
}

TEST_F(TimerTest, RunsThoseOfTheSameMomentInTheOrderInWhichTheyWereHandedOver) {
  for (int i = 0; i < 600; ++i) After(5 * kMs, i);  // more than join at once
  Pass(5 * kMs);
  ASSERT_EQ(ran_.size(), 600u);
  EXPECT_TRUE(std::is_sorted(ran_.begin(), ran_.end()));
}

TEST_F(TimerTest, WhatIsDueJoinsTheQueueBehindWhatIsThere) {
  After(10 * kMs, 2);
  ASSERT_TRUE(context().RunOnRuntimeThreadAsync([this] { ran_.push_back(1); }).ok());
  Pass(10 * kMs);
  EXPECT_THAT(ran_, ElementsAre(1, 2));
}

TEST_F(TimerTest, ADelayThatIsNotPositiveQueuesAtOnce) {
  After(absl::ZeroDuration(), 1);
  ASSERT_TRUE(context().RunOnRuntimeThreadAsync([this] { ran_.push_back(2); }).ok());
  After(-absl::InfiniteDuration(), 3);
  EXPECT_THAT(ran_, IsEmpty()) << "never in place";
  Turn();
  EXPECT_THAT(ran_, ElementsAre(1, 2, 3));
}

TEST_F(TimerTest, WithoutEndIsTooLongForAnyClock) {
  const Timer timer = After(absl::InfiniteDuration(), 1);
  After(absl::Hours(24 * 365 * 5000), 2);
  Pass(absl::Hours(24 * 365 * 100));
  EXPECT_THAT(ran_, IsEmpty());
  EXPECT_EQ(ledger().delayed, 2u);
  EXPECT_TRUE(timer.Cancel());
}

TEST_F(TimerTest, IsCountedAsDelayedUntilItIsDue) {
  After(10 * kMs, 1);
  EXPECT_EQ(ledger().delayed, 1u);
  EXPECT_EQ(ledger().queued, 0u);
  EXPECT_EQ(ledger().admitted, 1u);
  EXPECT_EQ(runtime_->GetSnapshot().bounds.front().held.items, 1);
  Pass(10 * kMs);
  EXPECT_EQ(ledger().delayed, 0u);
  EXPECT_EQ(ledger().succeeded, 1u);
}

TEST_F(TimerTest, CancelledOnTheRuntimeThreadItIsDestroyedAtOnceAndNeverRuns) {
  auto captured = std::make_shared<int>();
  const Timer timer = *context().RunAfter(10 * kMs, [this, captured] { ran_.push_back(1); });
  EXPECT_EQ(captured.use_count(), 2);
  EXPECT_TRUE(timer.Cancel());
  EXPECT_EQ(captured.use_count(), 1);
  EXPECT_FALSE(timer.Cancel()) << "it was cancelled before";
  Pass(20 * kMs);
  EXPECT_THAT(ran_, IsEmpty());
  EXPECT_EQ(ledger().cancelled, 1u);
}

TEST_F(TimerTest, OneThatIsQueuedBehindWhoCancelsItNeverRuns) {
  Timer second;
  ASSERT_TRUE(context().RunAfter(10 * kMs, [&] { EXPECT_TRUE(second.Cancel()); }).ok());
  second = After(10 * kMs, 2);
  Pass(10 * kMs);
  EXPECT_THAT(ran_, IsEmpty());
  EXPECT_EQ(ledger().cancelled, 1u);
}

TEST_F(TimerTest, CancelledOnAnotherThreadItIsDestroyedOnTheRuntimeThread) {
  std::thread::id destroyed_on;
  std::shared_ptr<void> captured(nullptr,
                                 [&](void*) { destroyed_on = std::this_thread::get_id(); });
  const Timer timer =
      *context().RunAfter(10 * kMs, [this, held = std::move(captured)] { ran_.push_back(1); });
  EXPECT_TRUE(CancelElsewhere(timer));
  EXPECT_EQ(destroyed_on, std::thread::id());
  Turn();
  EXPECT_EQ(destroyed_on, std::this_thread::get_id());
  Pass(20 * kMs);
  EXPECT_THAT(ran_, IsEmpty());
  EXPECT_FALSE(CancelElsewhere(timer));
}

TEST_F(TimerTest, DestroyingTheTimerDoesNotCancelIt) {
  { const Timer timer = After(10 * kMs, 1); }
  Pass(10 * kMs);
  EXPECT_THAT(ran_, ElementsAre(1));
  EXPECT_FALSE(Timer().Cancel()) << "names none";
}

TEST_F(TimerTest, APeriodicOneRunsAtEachMultipleOfItsPeriodHoweverLateARunIs) {
  ASSERT_TRUE(context().RunEvery(10 * kMs, [this] { ran_.push_back(0); }).ok());
  Pass(9 * kMs);
  EXPECT_EQ(ran_.size(), 0u);
  Pass(1 * kMs);
  EXPECT_EQ(ran_.size(), 1u);
  Pass(17 * kMs);  // 7 ms late
  EXPECT_EQ(ran_.size(), 2u);
  Pass(2 * kMs);
  EXPECT_EQ(ran_.size(), 2u);
  Pass(1 * kMs);
  EXPECT_EQ(ran_.size(), 3u) << "at 30";
  Pass(35 * kMs);
  EXPECT_EQ(ran_.size(), 4u) << "once for 40, 50 and 60, at 65";
  Pass(4 * kMs);
  EXPECT_EQ(ran_.size(), 4u);
  Pass(1 * kMs);
  EXPECT_EQ(ran_.size(), 5u) << "at 70";
  EXPECT_EQ(ledger().succeeded, 5u);
  EXPECT_EQ(ledger().delayed, 1u);
}

TEST_F(TimerTest, APeriodicOneThatTakesLongerThanItsPeriodRunsOnceMoreForAllThatCameMeanwhile) {
  int runs = 0;
  ASSERT_TRUE(context()
                  .RunEvery(10 * kMs,
                            [&] {
                              if (++runs == 1) clock_.Advance(35 * kMs);
                            })
                  .ok());
  ASSERT_TRUE(context().RunAfter(15 * kMs, [&] { ran_.push_back(runs); }).ok());
  Pass(10 * kMs);
  EXPECT_EQ(runs, 2);
  EXPECT_THAT(ran_, ElementsAre(1)) << "which was due before the second run";
  Pass(4 * kMs);
  EXPECT_EQ(runs, 2);
  Pass(1 * kMs);
  EXPECT_EQ(runs, 3) << "at 50";
}

TEST_F(TimerTest, APeriodicOneThatCancelsItselfEndsWithThatRun) {
  auto captured = std::make_shared<int>();
  Timer timer;
  timer = *context().RunEvery(10 * kMs, [&, captured] {
    ran_.push_back(1);
    EXPECT_TRUE(timer.Cancel());
    EXPECT_FALSE(timer.Cancel());
    EXPECT_GT(captured.use_count(), 1) << "it still runs";
  });
  Pass(10 * kMs);
  EXPECT_EQ(captured.use_count(), 1);
  Pass(100 * kMs);
  EXPECT_THAT(ran_, ElementsAre(1));
  EXPECT_EQ(ledger().ended(), 1u);
  EXPECT_EQ(ledger().delayed, 0u);
}

TEST_F(TimerTest, APeriodicOneThatThrowsGoesOn) {
  ASSERT_TRUE(context().RunEvery(10 * kMs, [] { throw std::runtime_error("out of film"); }).ok());
  Pass(10 * kMs);
  Pass(10 * kMs);
  EXPECT_EQ(ledger().failed, 2u);
  EXPECT_THAT(log_, HasSubstr("out of film"));
}

TEST_F(TimerTest, APeriodHasToBePositive) {
  for (const absl::Duration period : {absl::ZeroDuration(), -1 * kMs}) {
    const absl::Status status = context().RunEvery(period, [] {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_INVALID_REQUEST);
  }
}

TEST_F(TimerTest, TakesRoomFromTheStartAndAPeriodicOneAlwaysThatOfOne) {
  runtime_.reset();
  Start({.bounds = {.total = {.items = 2, .bytes = 1000}}});
  const Timer once = After(10 * kMs, 1);
  const Timer again = *context().RunEvery(10 * kMs, [this] { ran_.push_back(2); });
  auto captured = std::make_shared<int>();
  EXPECT_EQ(ReasonOf(context().RunAfter(kMs, [captured] {}).status()), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_EQ(captured.use_count(), 1);
  EXPECT_EQ(ledger().refused, 1u);
  Pass(10 * kMs);
  EXPECT_THAT(ran_, ElementsAre(1, 2));
  const Timer more = After(10 * kMs, 3);
  EXPECT_FALSE(context().RunAfter(kMs, [] {}).ok()) << "the periodic one has its room";
  EXPECT_TRUE(more.Cancel());
  EXPECT_TRUE(context().RunAfter(kMs, [] {}).ok());
}

TEST_F(TimerTest, AStopDestroysWhatIsDelayedAndRefusesMore) {
  auto captured = std::make_shared<int>();
  const Timer timer = *context().RunAfter(10 * kMs, [captured] {});
  const Timer periodic = *context().RunEvery(10 * kMs, [captured] {});
  const LocalRuntimeContext late = context();
  RemoteSession session(*runtime_);
  const auto delayed = session.Dispatch(kEcho, EchoRequest(), {.delay = kMs});
  runtime_.reset();
  EXPECT_EQ(captured.use_count(), 1);
  EXPECT_EQ(ReasonOf(delayed->Await()), v1::ERROR_REASON_RUNTIME_STOPPED);
  EXPECT_FALSE(timer.Cancel());
  EXPECT_FALSE(periodic.Cancel());
  EXPECT_EQ(ReasonOf(late.RunAfter(kMs, [captured] {}).status()), v1::ERROR_REASON_RUNTIME_STOPPED);
  EXPECT_EQ(captured.use_count(), 1);
}

// ---- delayed operations ----

TEST_F(TimerTest, ADelayedOperationJoinsTheQueueWhenItIsDue) {
  RemoteSession session(*runtime_);
  const auto late = session.Dispatch(kRecord, Record(2), {.delay = 20 * kMs});
  const auto early = session.Dispatch(kRecord, Record(1), {.delay = 10 * kMs});
  const auto now = session.Dispatch(kRecord, Record(0));
  EXPECT_EQ(ledger().delayed, 2u);
  EXPECT_EQ(session->counts().queued, 3u);
  Turn();
  EXPECT_TRUE(now->done());
  Pass(15 * kMs);
  EXPECT_TRUE(early->done());
  EXPECT_FALSE(late->done());
  Pass(5 * kMs);
  EXPECT_TRUE(late->Await().ok());
  EXPECT_THAT(operations_->record(),
              ElementsAre(std::pair(0, 0), std::pair(0, 1), std::pair(0, 2)));
}

TEST_F(TimerTest, ADelayedOperationCanBeCancelledAndGivenUp) {
  RemoteSession session(*runtime_);
  const auto cancelled = session.Dispatch(kRecord, Record(1), {.delay = 10 * kMs});
  const auto given_up = session.Dispatch(kRecord, Record(2), {.delay = 10 * kMs});
  EXPECT_TRUE(session.core().Cancel(*cancelled->task()));
  using GivenUp = internal::RuntimeCore::GivenUp;
  EXPECT_EQ(session.core().GiveUp(*given_up->task(), OutcomeKind::kExpired), GivenUp::kNeverRan);
  EXPECT_EQ(ReasonOf(cancelled->Await()), v1::ERROR_REASON_CANCELLED);
  EXPECT_EQ(ReasonOf(given_up->Await()), v1::ERROR_REASON_EXPIRED);
  EXPECT_EQ(ledger().delayed, 0u);
  EXPECT_EQ(session->counts().bytes, 0u);
  Pass(20 * kMs);
  EXPECT_THAT(operations_->record(), IsEmpty());
}

TEST_F(TimerTest, ADelayedOperationExpiresBeforeItIsDue) {
  RemoteSession session(*runtime_);
  const auto expires = session.Dispatch(kRecord, Record(1),
                                        {.deadline = clock_.Now() + 10 * kMs, .delay = 20 * kMs});
  Pass(9 * kMs);
  EXPECT_FALSE(expires->done());
  Pass(1 * kMs);
  EXPECT_EQ(ReasonOf(expires->Await()), v1::ERROR_REASON_EXPIRED);
  Pass(20 * kMs);
  EXPECT_THAT(operations_->record(), IsEmpty());
  EXPECT_EQ(ledger().expired, 1u);
}

TEST_F(TimerTest, ADelayedOperationEndsWithItsSessionAndNoOther) {
  RemoteSession session(*runtime_), other(*runtime_);
  const auto ends = session.Dispatch(kRecord, Record(1), {.delay = 10 * kMs});
  const auto stays = other.Dispatch(kRecord, Record(2), {.delay = 10 * kMs});
  session->End();
  EXPECT_EQ(ReasonOf(ends->Await()), v1::ERROR_REASON_SESSION_ENDED);
  EXPECT_EQ(ReasonOf(session.Dispatch(kEcho, EchoRequest(), {.delay = kMs})->Await()),
            v1::ERROR_REASON_SESSION_ENDED);
  Pass(10 * kMs);
  EXPECT_TRUE(stays->Await().ok());
}

TEST_F(TimerTest, ADelayedOperationIsRefusedAtOnceByABound) {
  runtime_.reset();
  Start({.bounds = {.session = {.items = 1, .bytes = 1000}}});
  RemoteSession session(*runtime_);
  const auto first = session.Dispatch(kEcho, EchoRequest(), {.delay = 10 * kMs});
  EXPECT_EQ(ReasonOf(session.Dispatch(kEcho, EchoRequest(), {.delay = kMs})->Await()),
            v1::ERROR_REASON_QUEUE_FULL);
  Pass(10 * kMs);
  EXPECT_TRUE(first->Await().ok());
  EXPECT_TRUE(session.Dispatch(kEcho, EchoRequest(), {.delay = kMs})->task() != nullptr);
}

TEST_F(TimerTest, OfManyWithOneKeyThatComeWithinTheirDelayTheLastRuns) {
  RemoteSession session(*runtime_);
  std::vector<std::shared_ptr<RemoteSession::Call>> calls;
  for (uint64_t i = 0; i < 3; ++i) {
    calls.push_back(
        session.Dispatch(kRecord, Record(i), {.delay = 10 * kMs, .coalesce_key = "size"}));
    Pass(6 * kMs);
  }
  EXPECT_EQ(ReasonOf(calls[0]->Await()), v1::ERROR_REASON_SUPERSEDED);
  EXPECT_EQ(ReasonOf(calls[1]->Await()), v1::ERROR_REASON_SUPERSEDED);
  EXPECT_FALSE(calls[2]->done());
  Pass(4 * kMs);
  EXPECT_TRUE(calls[2]->Await().ok());
  EXPECT_THAT(operations_->record(), ElementsAre(std::pair(0, 2)));
}

TEST_F(TimerTest, OneWithoutADelayTakesOverFromADelayedOneWithItsKeyAndTheOtherWayRound) {
  RemoteSession session(*runtime_);
  const auto delayed =
      session.Dispatch(kRecord, Record(1), {.delay = 10 * kMs, .coalesce_key = "size"});
  const auto other = session.Dispatch(kRecord, Record(2));
  const auto at_once = session.Dispatch(kRecord, Record(3), {.coalesce_key = "size"});
  EXPECT_EQ(ReasonOf(delayed->Await()), v1::ERROR_REASON_SUPERSEDED);
  Turn();
  EXPECT_TRUE(at_once->done());
  const auto queued = session.Dispatch(kRecord, Record(4), {.coalesce_key = "size"});
  const auto later =
      session.Dispatch(kRecord, Record(5), {.delay = 10 * kMs, .coalesce_key = "size"});
  EXPECT_EQ(ReasonOf(queued->Await()), v1::ERROR_REASON_SUPERSEDED);
  Pass(10 * kMs);
  EXPECT_TRUE(later->done());
  EXPECT_THAT(operations_->record(),
              ElementsAre(std::pair(0, 2), std::pair(0, 3), std::pair(0, 5)));
}

TEST_F(TimerTest, ABlockingCallTakesNoDelay) {
  const RuntimeContext remote = context().AsRuntimeContext();
  const absl::Status status =
      remote.DispatchBlocking<EchoReply>(kEcho, EchoRequest(), {.delay = kMs}).status();
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_INVALID_REQUEST);
  const Invocation later = remote.DispatchAfter<EchoReply>(10 * kMs, kEcho, EchoRequest());
  Turn();
  EXPECT_FALSE(later.done());
  Pass(10 * kMs);
  EXPECT_TRUE(later.done());
}

}  // namespace
}  // namespace runloop

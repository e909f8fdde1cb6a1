// The contract of dispatch, run over every way to a runtime: what a worker may rely on, wherever
// the runtime is.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "runloop/runtime/error.h"
#include "runloop/tests/contract/fixture.h"
#include "runloop/v1/handles.pb.h"

namespace runloop {
namespace {

using test::v1::DeferReply;
using test::v1::DeferRequest;
using test::v1::DropReply;
using test::v1::DropRequest;
using test::v1::EchoReply;
using test::v1::EchoRequest;
using test::v1::FailReply;
using test::v1::FailRequest;
using test::v1::HoldReply;
using test::v1::HoldRequest;
using test::v1::MakeReply;
using test::v1::MakeRequest;
using test::v1::RecordReply;
using test::v1::RecordRequest;
using test::v1::ThrowReply;
using test::v1::ThrowRequest;
using test::v1::UseReply;
using test::v1::UseRequest;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

constexpr char kRelease[] = "runloop.v1.Handles/Release";

INSTANTIATE_TEST_SUITE_P(, ContractTest, testing::ValuesIn(kPaths), PathName);

TEST_P(ContractTest, AReplyOfAnotherTypeOrThatWasNotAskedForIsRefused) {
  Start();
  const RuntimeContext context = Context();
  const absl::Status other =
      context.DispatchBlocking<test::v1::MakeReply>(kEcho, Echo("hello")).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kInvalidArgument) << other;
  EXPECT_THAT(std::string(other.message()), testing::HasSubstr("replies with a"));
  const Invocation quiet = context.DispatchAsync(kEcho, Echo("hello"));
  EXPECT_TRUE(quiet.Await().ok());
  const absl::Status unasked = quiet.AwaitReply<EchoReply>().status();
  EXPECT_EQ(unasked.code(), absl::StatusCode::kFailedPrecondition) << unasked;
}

TEST_P(ContractTest, ABlockingDispatchGivesTheReply) {
  Start();
  const absl::StatusOr<EchoReply> reply =
      Context().DispatchBlocking<EchoReply>(kEcho, Echo("hello"));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->text(), "hello");
  EXPECT_TRUE(reply->on_runtime_thread());
}

TEST_P(ContractTest, AnAsyncDispatchThatAsksForItsReplyGetsItOnce) {
  Start();
  const Invocation echo = Context().DispatchAsync<EchoReply>(kEcho, Echo("later"));
  const absl::StatusOr<EchoReply> reply = echo.AwaitReply<EchoReply>();
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->text(), "later");
  EXPECT_TRUE(echo.done());
  EXPECT_TRUE(echo.Await().ok());
  EXPECT_EQ(echo.AwaitReply<EchoReply>().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_P(ContractTest, AWatcherHearsTheOutcomeOnceWhetherItComesBeforeOrAfter) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  absl::Notification early;
  std::atomic<int> calls{0};
  hold.Watch([&](const absl::Status& status) {
    EXPECT_TRUE(status.ok()) << status;
    ++calls;
    early.Notify();
  });
  operations_->LetGo();
  early.WaitForNotification();
  absl::Notification late;
  hold.Watch([&](const absl::Status&) { late.Notify(); });
  late.WaitForNotification();
  EXPECT_EQ(calls, 1);
}

TEST_P(ContractTest, DispatchesOfOneSessionStartInTheOrderOfTheCalls) {
  Start();
  const RuntimeContext context = Context();
  constexpr uint64_t kItems = 10'000;
  for (uint64_t i = 0; i + 1 < kItems; ++i) context.DispatchAsync(kRecord, Record(1, i));
  const auto last = context.DispatchBlocking<RecordReply>(kRecord, Record(1, kItems - 1));
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->position(), kItems - 1);
  const auto record = operations_->record();
  ASSERT_EQ(record.size(), kItems);
  for (uint64_t i = 0; i < kItems; ++i) ASSERT_EQ(record[i].second, i);
}

TEST_P(ContractTest, FourThreadsReleasedTogetherKeepTheirOrderOverAHundredThousandItems) {
  Start();
  const RuntimeContext context = Context();
  constexpr int kThreads = 4;
  constexpr uint64_t kEach = 25'000;
  absl::Notification go;
  std::vector<std::thread> threads;
  std::atomic<int> refused{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      go.WaitForNotification();
      for (uint64_t i = 0; i < kEach; ++i) {
        const Invocation recorded = context.DispatchAsync(kRecord, Record(t, i));
        // Waits now and then, so that the bound on what may be unfinished is not met.
        if (i % 5'000 == 4'999 && !recorded.Await().ok()) ++refused;
      }
    });
  }
  go.Notify();
  for (std::thread& thread : threads) thread.join();
  operations_->AwaitRecorded(kThreads * kEach);
  EXPECT_EQ(refused, 0);
  std::vector<uint64_t> next(kThreads, 0);
  for (const auto& [producer, index] : operations_->record()) {
    ASSERT_EQ(index, next[producer]++);
  }
  for (const uint64_t count : next) EXPECT_EQ(count, kEach);
}

TEST_P(ContractTest, AnUnknownOperationIsUnimplementedAndNamesIt) {
  Start();
  const auto reply = Context().DispatchBlocking<EchoReply>("acme.v1.Camera/Open", Echo(""));
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ReasonOf(reply.status()), v1::ERROR_REASON_UNKNOWN_OPERATION);
  EXPECT_THAT(std::string(reply.status().message()), HasSubstr("acme.v1.Camera/Open"));
}

TEST_P(ContractTest, ARequestOfAnotherTypeIsInvalidAndNamesBoth) {
  Start();
  const auto reply = Context().DispatchBlocking<EchoReply>(kEcho, HoldRequest());
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(reply.status()), v1::ERROR_REASON_INVALID_REQUEST);
  EXPECT_THAT(std::string(reply.status().message()), HasSubstr("runloop.test.v1.EchoRequest"));
  EXPECT_THAT(std::string(reply.status().message()), HasSubstr("runloop.test.v1.HoldRequest"));
}

TEST_P(ContractTest, AHandlersOwnErrorComesBackAsItIs) {
  Start();
  FailRequest request;
  request.set_code(static_cast<int>(absl::StatusCode::kNotFound));
  request.set_message("no such camera");
  const RuntimeContext context = Context();
  EXPECT_EQ(context.DispatchBlocking<FailReply>(kFail, request).status(),
            absl::NotFoundError("no such camera"));
  EXPECT_EQ(context.DispatchAsync(kFail, request).Await(), absl::NotFoundError("no such camera"));
}

TEST_P(ContractTest, AHandlerThatThrowsGivesInternalWithItsTextAndTheThreadGoesOn) {
  Start();
  const RuntimeContext context = Context();
  ThrowRequest request;
  request.set_text("the lens cap is on");
  const absl::Status thrown = context.DispatchBlocking<ThrowReply>(kThrow, request).status();
  EXPECT_EQ(thrown.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ReasonOf(thrown), v1::ERROR_REASON_HANDLER_THREW);
  EXPECT_THAT(std::string(thrown.message()), HasSubstr("the lens cap is on"));
  EXPECT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("on")).ok());
}

TEST_P(ContractTest, ACompletionThatIsDroppedGivesAborted) {
  Start();
  const RuntimeContext context = Context();
  // Without a deadline, at which it would be ABORTED in any case.
  const absl::Status dropped = context.DispatchAsync(kDrop, DropRequest()).Await();
  EXPECT_EQ(dropped.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(dropped), v1::ERROR_REASON_COMPLETION_DROPPED);
}

TEST_P(ContractTest, ADeferredOperationFinishesLaterFromAnyThreadAndHoldsNobodyUp) {
  Start();
  const RuntimeContext context = Context();
  const Invocation deferred = context.DispatchAsync<DeferReply>(kDefer, DeferRequest());
  Completion<DeferReply> completion = operations_->TakeDeferred();
  ASSERT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("meanwhile")).ok());
  EXPECT_FALSE(deferred.done());
  EXPECT_EQ(runtime_->GetSnapshot().ledger.deferred, 1u);
  DeferReply reply;
  reply.set_text("at last");
  completion.Finish(reply);
  const absl::StatusOr<DeferReply> got = deferred.AwaitReply<DeferReply>();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->text(), "at last");
  EXPECT_EQ(runtime_->GetSnapshot().ledger.deferred, 0u);
}

TEST_P(ContractTest, ADeferredCompletionDroppedOnAnotherThreadGivesAborted) {
  Start();
  const RuntimeContext context = Context();
  const Invocation deferred = context.DispatchAsync(kDefer, DeferRequest());
  { const Completion<DeferReply> dropped = operations_->TakeDeferred(); }
  EXPECT_EQ(deferred.Await().code(), absl::StatusCode::kAborted);
}

TEST_P(ContractTest, NotStartedAtItsDeadlineItNeverRuns) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  const absl::Status expired =
      context
          .DispatchBlocking<RecordReply>(kRecord, Record(0, 0), {.timeout = absl::Milliseconds(20)})
          .status();
  EXPECT_EQ(expired.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(expired), v1::ERROR_REASON_EXPIRED) << expired;
  operations_->LetGo();
  ASSERT_TRUE(hold.Await().ok());
  ASSERT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("")).ok());
  EXPECT_TRUE(operations_->record().empty());
}

TEST_P(ContractTest, StartedAtItsDeadlineItRunsOnAndTheCallerGoes) {
  Start();
  const RuntimeContext context = Context();
  const absl::Status gone = TimeOutOnceStarted<HoldReply>(context, kHold, HoldRequest());
  EXPECT_EQ(ReasonOf(gone), v1::ERROR_REASON_STILL_RUNNING) << gone;
  EXPECT_EQ(runtime_->GetSnapshot().ledger.running, 1u);
  operations_->LetGo();
  ASSERT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("")).ok());
  EXPECT_EQ(runtime_->GetSnapshot().ledger.failed, 0u);
}

TEST_P(ContractTest, CancelledBeforeItStartsItNeverRuns) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  const Invocation record = context.DispatchAsync(kRecord, Record(0, 0));
  record.Cancel();
  const absl::Status cancelled = record.Await();
  EXPECT_EQ(cancelled.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ReasonOf(cancelled), v1::ERROR_REASON_CANCELLED);
  hold.Cancel();  // too late: it runs
  operations_->LetGo();
  EXPECT_TRUE(hold.Await().ok());
  ASSERT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("")).ok());
  EXPECT_TRUE(operations_->record().empty());
  EXPECT_EQ(runtime_->GetSnapshot().ledger.cancelled, 1u);
}

TEST_P(ContractTest, AnAwaitThatTimesOutLeavesTheInvocationAlone) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  EXPECT_EQ(ReasonOf(hold.Await(absl::Milliseconds(1))), v1::ERROR_REASON_STILL_RUNNING);
  operations_->LetGo();
  EXPECT_TRUE(hold.Await().ok());
}

TEST_P(ContractTest, DroppingAnInvocationOrItsContextDoesNotCancelIt) {
  Start();
  {
    const RuntimeContext context = Context();
    for (uint64_t i = 0; i < 100; ++i) context.DispatchAsync(kRecord, Record(0, i));
  }
  operations_->AwaitRecorded(100);
}

TEST_P(ContractTest, ADeferredOperationOutlivesItsContextForAWhile) {
  Start();
  std::thread finisher([&] {
    Completion<DeferReply> completion = operations_->TakeDeferred();
    completion.Finish(DeferReply());
  });
  const Invocation deferred = Context().DispatchAsync(kDefer, DeferRequest());
  EXPECT_TRUE(deferred.Await().ok());
  finisher.join();
}

TEST_P(ContractTest, ASessionThatEndsRunsWhatWasLeftForItsEnd) {
  Start();
  { ASSERT_TRUE(Context().DispatchBlocking<RecordReply>(kRecord, Record(0, 0)).ok()); }
  operations_->AwaitEndedSessions(1);
  EXPECT_EQ(operations_->ended_sessions().size(), 1u);
}

TEST_P(ContractTest, WorkQueuedBeforeTheLoopStartsRunsOnceItDoes) {
  Start(RuntimeThread::kBind);
  std::thread worker([&] {
    const RuntimeContext context = Context();
    const Invocation early = context.DispatchAsync(kRecord, Record(0, 0));
    EXPECT_FALSE(early.done());
    EXPECT_TRUE(context.DispatchBlocking<RecordReply>(kRecord, Record(0, 1)).ok());
    EXPECT_TRUE(early.Await().ok());
    runtime_->Stop();
  });
  // The loop starts only when both wait for it.
  while (runtime_->GetSnapshot().ledger.queued < 2) std::this_thread::yield();
  ASSERT_TRUE(runtime_->Run().ok());
  worker.join();
  EXPECT_EQ(operations_->record().size(), 2u);
}

TEST_P(ContractTest, AnEmptyExecutorIsAsNone) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  absl::Notification before, after;
  hold.Watch(Executor(), [&](const absl::Status&) { before.Notify(); });
  operations_->LetGo();
  EXPECT_TRUE(hold.Await().ok());
  before.WaitForNotification();
  hold.Watch(Executor(), [&](const absl::Status&) { after.Notify(); });
  EXPECT_TRUE(after.HasBeenNotified());
}

TEST_P(ContractTest, ADescriptorThatIsNotOpenIsInvalid) {
  Start();
  EXPECT_EQ(Context().SendDescriptor(-1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(ContractTest, WhoAwaitsWhatIsWatchedHearsOfIt) {
  Start();
  const RuntimeContext context = Context();
  // Twice: a client's thread that has waited before reads for itself.
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("")).ok());
    const Invocation hold = Hold(context);
    absl::Notification watched;
    hold.Watch([&watched](const absl::Status&) { watched.Notify(); });
    operations_->LetGo();
    EXPECT_TRUE(hold.Await(absl::Seconds(20)).ok());
    watched.WaitForNotification();
  }
}

TEST_P(ContractTest, AStoppedRuntimeAnswersUnavailableAndNeverHangs) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  const Invocation queued = context.DispatchAsync(kRecord, Record(0, 0));
  while (runtime_->GetSnapshot().ledger.queued == 0) std::this_thread::yield();
  operations_->LetGo();
  host_.reset();
  runtime_.reset();
  // Each has an outcome, whichever; what comes now is refused.
  (void)hold.Await();
  (void)queued.Await();
  EXPECT_EQ(context.DispatchBlocking<EchoReply>(kEcho, Echo(""), {.timeout = absl::Seconds(20)})
                .status()
                .code(),
            absl::StatusCode::kUnavailable);
}

TEST_P(ContractTest, WhatIsAdmittedIsDrainedAndWhatComesLaterIsRefused) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  std::vector<Invocation> admitted;
  for (uint64_t i = 0; i < 100; ++i)
    admitted.push_back(context.DispatchAsync(kRecord, Record(0, i)));
  while (runtime_->GetSnapshot().ledger.queued < 100) std::this_thread::yield();
  runtime_->BeginDrain();
  const absl::Status refused =
      context.DispatchBlocking<EchoReply>(kEcho, Echo(""), {.timeout = absl::Seconds(20)}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_DRAINING) << refused;
  operations_->LetGo();
  const Runtime::DrainResult result =
      host_ ? host_->Drain(absl::Seconds(60)) : runtime_->Drain(absl::Seconds(60));
  EXPECT_TRUE(result.drained);
  EXPECT_EQ(result.ledger.abandoned, 0u);
  for (const Invocation& invocation : admitted) EXPECT_TRUE(invocation.Await().ok());
  EXPECT_TRUE(hold.Await().ok());
}

TEST_P(ContractTest, AHandleNamesAnObjectUntilItIsReleasedAndTheSessionsEndClosesTheRest) {
  Start();
  std::vector<Handle> handles;
  {
    const RuntimeContext context = Context(), other = Context();
    for (const char* const name : {"a", "b", "c"}) {
      MakeRequest make;
      make.set_name(name);
      const absl::StatusOr<MakeReply> made = context.DispatchBlocking<MakeReply>(kMake, make);
      ASSERT_TRUE(made.ok()) << made.status();
      handles.push_back(made->handle());
    }
    UseRequest use;
    use.set_handle(handles[1]);
    EXPECT_EQ(context.DispatchBlocking<UseReply>(kUse, use)->name(), "b");
    EXPECT_EQ(ReasonOf(other.DispatchBlocking<UseReply>(kUse, use).status()),
              v1::ERROR_REASON_UNKNOWN_HANDLE);
    v1::ReleaseRequest release;
    release.set_handle(handles[1]);
    EXPECT_TRUE(context.DispatchBlocking<v1::ReleaseResponse>(kRelease, release).ok());
    EXPECT_THAT(operations_->destroyed(), ElementsAre("b"));
    EXPECT_EQ(ReasonOf(context.DispatchBlocking<UseReply>(kUse, use).status()),
              v1::ERROR_REASON_UNKNOWN_HANDLE);
  }
  operations_->AwaitDestroyed(3);
  EXPECT_THAT(operations_->destroyed(), ElementsAre("b", "c", "a"));
}

TEST_P(ContractTest, WhatACallThatTimedOutMakesLaterIsReleased) {
  Start();
  const RuntimeContext context = Context();
  // Deferred work of the handler's own would be as good: here the thread is held inside Make.
  MakeRequest make;
  make.set_name("late");
  make.set_holds_first(true);
  const absl::Status late = TimeOutOnceStarted<MakeReply>(context, kMake, make);
  EXPECT_EQ(ReasonOf(late), v1::ERROR_REASON_STILL_RUNNING) << late;
  operations_->LetGo();
  operations_->AwaitDestroyed(1);
  EXPECT_THAT(operations_->destroyed(), ElementsAre("late"));
}

TEST_P(ContractTest, ANewerDispatchWithTheSameKeySupersedesTheOneThatWaits) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  const Invocation first = context.DispatchAsync(kRecord, Record(1, 1), {.coalesce_key = "size"});
  const Invocation between = context.DispatchAsync(kRecord, Record(1, 2));
  const Invocation second = context.DispatchAsync(kRecord, Record(1, 3), {.coalesce_key = "size"});
  const absl::Status superseded = first.Await();
  EXPECT_EQ(superseded.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(superseded), v1::ERROR_REASON_SUPERSEDED);
  operations_->LetGo();
  EXPECT_TRUE(second.Await().ok());
  EXPECT_TRUE(between.Await().ok());
  EXPECT_THAT(operations_->record(), ElementsAre(Pair(1, 3), Pair(1, 2)));
}

TEST_P(ContractTest, AKeyThatIsTooLongOrNotUtf8IsInvalidAndDoesNotRun) {
  Start();
  const RuntimeContext context = Context();
  for (const std::string& key : {std::string(129, 'k'), std::string("\xff")}) {
    const absl::Status refused =
        context.DispatchAsync(kRecord, Record(1, 1), {.coalesce_key = key}).Await();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
    EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_INVALID_REQUEST);
  }
  EXPECT_TRUE(context
                  .DispatchBlocking<RecordReply>(kRecord, Record(1, 2),
                                                 {.coalesce_key = std::string(128, 'k')})
                  .ok());
  EXPECT_EQ(operations_->record().size(), 1u);
}

TEST_P(ContractTest, ADelayedDispatchStartsWhenItIsDueInTheOrderOfTimes) {
  Start();
  const RuntimeContext context = Context();
  const absl::Time begin = Clock::Monotonic()->Now();
  const Invocation second =
      context.DispatchAfter<RecordReply>(absl::Milliseconds(40), kRecord, Record(1, 2));
  const Invocation first = context.DispatchAfter(absl::Milliseconds(20), kRecord, Record(1, 1));
  const Invocation at_once = context.DispatchAfter(absl::ZeroDuration(), kRecord, Record(1, 0));
  EXPECT_TRUE(at_once.Await().ok());
  EXPECT_TRUE(first.Await().ok());
  EXPECT_GE(Clock::Monotonic()->Now(), begin + absl::Milliseconds(20));
  EXPECT_TRUE(second.AwaitReply<RecordReply>().ok());
  EXPECT_GE(Clock::Monotonic()->Now(), begin + absl::Milliseconds(40));
  EXPECT_THAT(operations_->record(), ElementsAre(Pair(1, 0), Pair(1, 1), Pair(1, 2)));
}

TEST_P(ContractTest, ADelayedDispatchIsCancelledExpiresAndIsSupersededBeforeItIsDue) {
  Start();
  const RuntimeContext context = Context();
  const absl::Duration late = absl::Hours(1);
  const Invocation cancelled = context.DispatchAfter(late, kRecord, Record(1, 1));
  while (runtime_->GetSnapshot().ledger.delayed < 1) std::this_thread::yield();
  cancelled.Cancel();
  EXPECT_EQ(ReasonOf(cancelled.Await()), v1::ERROR_REASON_CANCELLED);
  const Invocation expires =
      context.DispatchAfter(late, kRecord, Record(1, 2), {.timeout = absl::Milliseconds(20)});
  EXPECT_EQ(ReasonOf(expires.Await()), v1::ERROR_REASON_EXPIRED);
  const Invocation older =
      context.DispatchAfter(late, kRecord, Record(1, 3), {.coalesce_key = "size"});
  const Invocation newer =
      context.DispatchAfter(absl::Milliseconds(1), kRecord, Record(1, 4), {.coalesce_key = "size"});
  EXPECT_EQ(ReasonOf(older.Await()), v1::ERROR_REASON_SUPERSEDED);
  EXPECT_TRUE(newer.Await().ok());
  EXPECT_THAT(operations_->record(), ElementsAre(Pair(1, 4)));
  EXPECT_EQ(runtime_->GetSnapshot().ledger.delayed, 0u);
}

TEST_P(ContractTest, ADelayedDispatchIsBoundedAndADrainDoesNotWaitForIt) {
  Start(RuntimeThread::kSpawn, {.total = {.items = 2, .bytes = 1 << 20}});
  const RuntimeContext context = Context();
  const Invocation endless = context.DispatchAfter(absl::InfiniteDuration(), kRecord, Record(1, 1));
  const Invocation late = context.DispatchAfter(absl::Hours(1), kRecord, Record(1, 2));
  const Invocation refused = context.DispatchAfter(absl::Hours(1), kRecord, Record(1, 3));
  EXPECT_EQ(ReasonOf(refused.Await()), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_EQ(
      ReasonOf(
          context.DispatchBlocking<EchoReply>(kEcho, Echo(""), {.delay = absl::Milliseconds(1)})
              .status()),
      v1::ERROR_REASON_INVALID_REQUEST);
  const Runtime::DrainResult result =
      host_ ? host_->Drain(absl::Hours(1)) : runtime_->Drain(absl::Hours(1));
  EXPECT_TRUE(result.drained);
  EXPECT_EQ(result.ledger.abandoned, 2u);
  EXPECT_EQ(ReasonOf(endless.Await()), v1::ERROR_REASON_RUNTIME_STOPPED);
  EXPECT_EQ(ReasonOf(late.Await()), v1::ERROR_REASON_RUNTIME_STOPPED);
}

TEST_P(ContractTest, ACallThatMayWaitForRoomGetsItOnceThereIsSome) {
  Start(RuntimeThread::kSpawn, {.total = {.items = 3, .bytes = 1 << 20}});
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  const Invocation first = context.DispatchAsync(kRecord, Record(1, 1));
  const Invocation second = context.DispatchAsync(kRecord, Record(1, 2));
  EXPECT_EQ(ReasonOf(context.DispatchBlocking<RecordReply>(kRecord, Record(1, 3)).status()),
            v1::ERROR_REASON_QUEUE_FULL);
  std::thread later([&] { operations_->LetGo(); });
  const absl::StatusOr<RecordReply> waited =
      context.DispatchBlocking<RecordReply>(kRecord, Record(1, 4), {.when_full = WhenFull::kWait});
  later.join();
  EXPECT_TRUE(waited.ok()) << waited.status();
  EXPECT_THAT(operations_->record(), ElementsAre(Pair(1, 1), Pair(1, 2), Pair(1, 4)));
}

TEST_P(ContractTest, WhatIsDeferredFailsAtItsDeadline) {
  Start();
  const RuntimeContext context = Context();
  const Invocation deferred =
      context.DispatchAsync(kDefer, DeferRequest(), {.timeout = absl::Milliseconds(50)});
  const absl::Status status = deferred.Await();
  if (ReasonOf(status) == v1::ERROR_REASON_EXPIRED &&
      status.code() == absl::StatusCode::kDeadlineExceeded) {
    return;  // a machine so slow that it did not start
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
  Completion<DeferReply> completion = operations_->TakeDeferred();
  completion.Finish(DeferReply());  // too late, and nobody minds
}

TEST_P(ContractTest, TheLedgerBalances) {
  Start();
  const RuntimeContext context = Context();
  FailRequest fail;
  fail.set_code(3);
  std::vector<Invocation> all;
  for (uint64_t i = 0; i < 300; ++i) {
    all.push_back(context.DispatchAsync(kRecord, Record(0, i)));
    all.push_back(context.DispatchAsync(kFail, fail));
    all.push_back(context.DispatchAsync(kDrop, DropRequest()));
  }
  for (const Invocation& invocation : all) (void)invocation.Await();
  // An outcome is told before it is counted.
  while (runtime_->GetSnapshot().ledger.ended() < 900) std::this_thread::yield();
  const Ledger::Counts ledger = runtime_->GetSnapshot().ledger;
  EXPECT_EQ(ledger.succeeded, 300u);
  EXPECT_EQ(ledger.failed, 600u);
  EXPECT_EQ(ledger.admitted,
            ledger.ended() + ledger.delayed + ledger.queued + ledger.running + ledger.deferred);
}

}  // namespace
}  // namespace runloop

// What a session has and what ends with it: its objects, its share of the room, its work.

#include "runloop/runtime/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runloop/runtime/error.h"
#include "runloop/tests/testing/fake_clock.h"
#include "runloop/tests/testing/remote_session.h"
#include "runloop/v1/handles.pb.h"

namespace runloop {
namespace {

using test::v1::DeferRequest;
using test::v1::EchoReply;
using test::v1::EchoRequest;
using test::v1::HoldRequest;
using test::v1::MakeReply;
using test::v1::MakeRequest;
using test::v1::RecordRequest;
using test::v1::UseReply;
using test::v1::UseRequest;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kRelease[] = "runloop.v1.Handles/Release";

class SessionTest : public testing::Test {
 protected:
  void Start(RuntimeOptions options = {}) {
    OperationRegistry registry;
    operations_ = TestOperations::Register(registry);
    options.operations = std::move(registry);
    options.thread = RuntimeThread::kSpawn;
    options.log = [](LogSeverity, std::string_view) {};
    runtime_ = *Runtime::Create(std::move(options));
  }
  void TearDown() override {
    if (operations_) operations_->LetGo();
    runtime_.reset();
  }

  static MakeRequest Make(std::string name, bool closes_slowly = false) {
    MakeRequest request;
    request.set_name(std::move(name));
    request.set_closes_slowly(closes_slowly);
    return request;
  }
  static Handle MakeThing(RemoteSession& session, std::string name, bool closes_slowly = false) {
    const auto call = session.Dispatch(kMake, Make(std::move(name), closes_slowly));
    EXPECT_TRUE(call->Await().ok()) << call->Await();
    return call->Take<MakeReply>().handle();
  }
  static absl::Status Use(RemoteSession& session, Handle handle) {
    UseRequest request;
    request.set_handle(handle);
    return session.Dispatch(kUse, request)->Await();
  }
  static std::shared_ptr<RemoteSession::Call> Release(RemoteSession& session, Handle handle) {
    v1::ReleaseRequest request;
    request.set_handle(handle);
    return session.Dispatch(kRelease, request);
  }
  static EchoRequest Payload(size_t bytes) {
    EchoRequest request;
    request.set_payload(std::string(bytes, 'x'));
    return request;
  }
  // Holds the runtime thread, by a session of its own.
  std::shared_ptr<RemoteSession::Call> Hold(RemoteSession& session) {
    auto hold = session.Dispatch(kHold, HoldRequest());
    operations_->AwaitHeld();
    return hold;
  }
  void AwaitNoSession() {
    // Each look posts a closure, behind which the clean-up is done.
    while (!runtime_->GetSnapshot().sessions.empty()) {
      ASSERT_TRUE(runtime_->context().RunOnRuntimeThreadBlocking([] {}).ok());
    }
  }

  FakeClock clock_;
  std::shared_ptr<TestOperations> operations_;
  std::unique_ptr<Runtime> runtime_;
};

TEST_F(SessionTest, AHandleNamesItsObjectForItsOwnSessionUntilItIsReleased) {
  Start();
  RemoteSession owner(*runtime_), other(*runtime_);
  const Handle handle = MakeThing(owner, "a");
  EXPECT_NE(handle, 0u);
  EXPECT_TRUE(Use(owner, handle).ok());
  EXPECT_EQ(ReasonOf(Use(other, handle)), v1::ERROR_REASON_UNKNOWN_HANDLE);
  EXPECT_EQ(ReasonOf(Release(other, handle)->Await()), v1::ERROR_REASON_UNKNOWN_HANDLE);
  EXPECT_TRUE(Release(owner, handle)->Await().ok());
  EXPECT_THAT(operations_->destroyed(), ElementsAre("a"));
  EXPECT_EQ(ReasonOf(Use(owner, handle)), v1::ERROR_REASON_UNKNOWN_HANDLE);
  EXPECT_EQ(ReasonOf(Release(owner, handle)->Await()), v1::ERROR_REASON_UNKNOWN_HANDLE);
  const Handle next = MakeThing(owner, "b");
  EXPECT_NE(next, handle) << "a stale handle would name another object";
}

TEST_F(SessionTest, AHandleOfAnotherTypeIsUnknown) {
  Start();
  RemoteSession session(*runtime_);
  RecordRequest record;  // keeps an object of another type
  ASSERT_TRUE(session.Dispatch(kRecord, record)->Await().ok());
  ASSERT_EQ(session->counts().handles, 1u);
  const Handle after = MakeThing(session, "a");
  EXPECT_EQ(ReasonOf(Use(session, after - 1)), v1::ERROR_REASON_UNKNOWN_HANDLE);
}

TEST_F(SessionTest, ItsObjectsAreClosedLastMadeFirstWhenItEnds) {
  Start();
  RemoteSession session(*runtime_);
  for (const char* const name : {"a", "b", "c"}) MakeThing(session, name);
  session->End();
  operations_->AwaitDestroyed(3);
  EXPECT_THAT(operations_->destroyed(), ElementsAre("c", "b", "a"));
  AwaitNoSession();
  EXPECT_EQ(session->counts().handles, 0u);
}

TEST_F(SessionTest, AnObjectThatClosesSlowlyHoldsBackThoseBeforeItAndNotTheThread) {
  Start();
  RemoteSession session(*runtime_), other(*runtime_);
  MakeThing(session, "a");
  MakeThing(session, "slow", /*closes_slowly=*/true);
  MakeThing(session, "c");
  session->End();
  operations_->AwaitDestroyed(1);
  ASSERT_TRUE(other.Dispatch(kEcho, EchoRequest())->Await().ok());  // the thread goes on
  EXPECT_THAT(operations_->destroyed(), ElementsAre("c"));
  EXPECT_EQ(runtime_->GetSnapshot().sessions.size(), 2u) << "it is closing, and shown";
  operations_->FinishClosing();
  operations_->AwaitDestroyed(3);
  EXPECT_THAT(operations_->destroyed(), ElementsAre("c", "slow", "a"));
}

TEST_F(SessionTest, AnObjectThatDoesNotCloseInTimeIsDestroyedAsItIs) {
  Start({.close_timeout = absl::Seconds(5), .clock = &clock_});
  RemoteSession session(*runtime_);
  const Handle handle = MakeThing(session, "slow", /*closes_slowly=*/true);
  const auto release = Release(session, handle);
  operations_->AwaitClosing();
  EXPECT_FALSE(release->done());
  clock_.Advance(absl::Seconds(5));
  EXPECT_EQ(release->Await().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(operations_->destroyed(), ElementsAre("slow"));
  operations_->FinishClosing();  // too late; does nothing
}

TEST_F(SessionTest, WhatItIsGivenUpByItsCallerReleasesWhatItMakes) {
  Start();
  RemoteSession session(*runtime_), other(*runtime_);
  const auto hold = Hold(other);
  const auto never_ran = session.Dispatch(kMake, Make("unmade"));
  using GivenUp = internal::RuntimeCore::GivenUp;
  EXPECT_EQ(session.core().GiveUp(*never_ran->task(), OutcomeKind::kExpired), GivenUp::kNeverRan);
  EXPECT_EQ(ReasonOf(never_ran->Await()), v1::ERROR_REASON_EXPIRED);
  operations_->LetGo();
  const auto made = session.Dispatch(kMake, Make("made"), {.number = 7});
  ASSERT_TRUE(made->Await().ok());
  EXPECT_EQ(session.core().GiveUp(*made->task(), OutcomeKind::kExpired), GivenUp::kEnded);
  EXPECT_EQ(session->counts().handles, 1u) << "it has ended: its caller has the reply";
  session.core().GiveUpEnded(*session, 8);
  session.core().GiveUpEnded(*session, 7);
  operations_->AwaitDestroyed(1);
  EXPECT_THAT(operations_->destroyed(), ElementsAre("made"));
}

TEST_F(SessionTest, WhatIsDeferredInPlaceRunsOnAndIsGivenUp) {
  Start();
  const RuntimeContext context = runtime_->context().AsRuntimeContext();
  const absl::Status status = runtime_->context().RunOnRuntimeThreadBlocking([&] {
    return context.DispatchBlocking<test::v1::DeferReply>(kDefer, test::v1::DeferRequest())
        .status();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_STILL_RUNNING);
  operations_->TakeDeferred().Finish(test::v1::DeferReply());
  EXPECT_EQ(runtime_->GetSnapshot().ledger.given_up, 1u);
}

TEST_F(SessionTest, AResultThatComesAfterItsCallerGaveUpReleasesWhatWasMade) {
  Start();
  RemoteSession session(*runtime_);
  MakeRequest make = Make("late");
  make.set_holds_first(true);
  const auto late = session.Dispatch(kMake, make, {.number = 7});
  operations_->AwaitHeld();
  using GivenUp = internal::RuntimeCore::GivenUp;
  EXPECT_EQ(session.core().GiveUp(*late->task(), OutcomeKind::kExpired), GivenUp::kStillRunning);
  operations_->LetGo();
  EXPECT_EQ(ReasonOf(late->Await()), v1::ERROR_REASON_STILL_RUNNING);
  // Behind which the clean-up is done.
  ASSERT_TRUE(runtime_->context().RunOnRuntimeThreadBlocking([] {}).ok());
  EXPECT_THAT(operations_->destroyed(), ElementsAre("late"))
      << "a late reply leaks what it carries";
  EXPECT_EQ(session->counts().handles, 0u);
  EXPECT_EQ(runtime_->GetSnapshot().ledger.given_up, 1u);
}

TEST_F(SessionTest, AHandleFromAnotherRunOfTheHostIsUnknown) {
  Start();
  Handle before;
  {
    RemoteSession session(*runtime_);
    before = MakeThing(session, "a");
  }
  Start();
  RemoteSession session(*runtime_);
  MakeThing(session, "b");
  EXPECT_EQ(ReasonOf(Release(session, before)->Await()), v1::ERROR_REASON_UNKNOWN_HANDLE);
}

TEST_F(SessionTest, MayHoldOnlySoManyHandles) {
  Start({.max_handles = 2});
  RemoteSession session(*runtime_);
  const Handle first = MakeThing(session, "a");
  MakeThing(session, "b");
  const absl::Status full = session.Dispatch(kMake, Make("c"))->Await();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(full), v1::ERROR_REASON_HANDLES_FULL);
  ASSERT_TRUE(Release(session, first)->Await().ok());
  MakeThing(session, "d");
}

TEST_F(SessionTest, ItsEndEndsItsQueuedAndDeferredWorkWhileTheThreadIsHeld) {
  Start();
  RemoteSession session(*runtime_), other(*runtime_);
  const auto deferred = session.Dispatch(kDefer, DeferRequest());
  Completion<test::v1::DeferReply> completion = operations_->TakeDeferred();
  const auto hold = Hold(other);
  std::vector<std::shared_ptr<RemoteSession::Call>> queued;
  for (int i = 0; i < 100; ++i) queued.push_back(session.Dispatch(kRecord, RecordRequest()));
  session->End();
  for (const auto& call : queued)
    EXPECT_EQ(ReasonOf(call->Await()), v1::ERROR_REASON_SESSION_ENDED);
  EXPECT_EQ(ReasonOf(deferred->Await()), v1::ERROR_REASON_SESSION_ENDED);
  const Ledger::Counts ledger = runtime_->GetSnapshot().ledger;
  EXPECT_EQ(ledger.abandoned, 100u);
  EXPECT_EQ(ledger.queued, 0u);
  EXPECT_EQ(session->counts().bytes, 0u);
  EXPECT_EQ(ReasonOf(session.Dispatch(kRecord, RecordRequest())->Await()),
            v1::ERROR_REASON_SESSION_ENDED);
  operations_->LetGo();
  ASSERT_TRUE(hold->Await().ok());
  EXPECT_TRUE(operations_->record().empty());
  completion.Finish(test::v1::DeferReply());  // dropped
  EXPECT_EQ(runtime_->GetSnapshot().ledger.failed, 1u);
}

TEST_F(SessionTest, WhatIsDeferredFailsAtItsDeadline) {
  Start({.clock = &clock_});
  RemoteSession session(*runtime_);
  const auto deferred =
      session.Dispatch(kDefer, DeferRequest(), {.deadline = clock_.Now() + absl::Seconds(3)});
  Completion<test::v1::DeferReply> completion = operations_->TakeDeferred();
  EXPECT_FALSE(deferred->done());
  clock_.Advance(absl::Seconds(3));
  EXPECT_EQ(deferred->Await().code(), absl::StatusCode::kAborted);
  completion.Finish(test::v1::DeferReply());
  EXPECT_EQ(runtime_->GetSnapshot().ledger.deferred, 0u);
}

TEST_F(SessionTest, ARefusalNamesTheBoundWhoHoldsTheRoomAndWhenToTryAgain) {
  Start({.bounds = {.total = {.items = 9, .bytes = 100'000},
                    .user = {.items = 6, .bytes = 5'000},
                    .session = {.items = 4, .bytes = 3'000}}});
  RemoteSession host(*runtime_, {.pid = 1, .uid = 1});
  const auto hold = Hold(host);
  RemoteSession a(*runtime_, {.pid = 11, .uid = 1000}), b(*runtime_, {.pid = 12, .uid = 1000});
  auto dispatch = [](RemoteSession& session, size_t bytes) {
    const auto call = session.Dispatch(kEcho, Payload(bytes));
    return call->done() ? call->Await() : absl::OkStatus();
  };
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(dispatch(a, 10).ok());
  const absl::Status session_full = dispatch(a, 10);
  EXPECT_EQ(session_full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(session_full), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_THAT(std::string(session_full.message()), HasSubstr("4 of 4 invocations"));
  EXPECT_GT(RetryDelayOf(session_full).value(), absl::ZeroDuration());
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(dispatch(b, 10).ok());
  const absl::Status user_full = dispatch(b, 10);
  EXPECT_THAT(std::string(user_full.message()), HasSubstr("uid 1000 has 6 of 6"));
  EXPECT_THAT(std::string(user_full.message()), HasSubstr(a->info().id)) << "the largest holder";
  EXPECT_THAT(std::string(user_full.message()), HasSubstr("process 11"));
  RemoteSession c(*runtime_, {.pid = 13, .uid = 1000, .role = "camera"});
  ASSERT_TRUE(dispatch(c, 10).ok());
  ASSERT_TRUE(dispatch(c, 10).ok());
  EXPECT_THAT(std::string(dispatch(c, 10).message()), HasSubstr("the runtime has 9 of 9"));
  EXPECT_EQ(runtime_->context().RunOnRuntimeThreadAsync([] {}).code(),
            absl::StatusCode::kResourceExhausted);
  bool found = false;
  for (const BoundStatus& bound : runtime_->GetSnapshot().bounds) {
    if (bound.holder != "role camera") continue;
    found = true;
    EXPECT_EQ(bound.held.items, 2);
  }
  EXPECT_TRUE(found);
  a->End();
  EXPECT_TRUE(dispatch(b, 10).ok()) << "what a session held is free when it has ended";
  operations_->LetGo();
  ASSERT_TRUE(hold->Await().ok());
}

TEST_F(SessionTest, WhoHoldsMostIsLookedUpOnceInAWhile) {
  Start({.bounds = {.user = {.items = 4, .bytes = 5'000}}, .clock = &clock_});
  RemoteSession host(*runtime_, {.pid = 1, .uid = 1});
  const auto hold = Hold(host);
  RemoteSession a(*runtime_, {.pid = 11, .uid = 1000}), b(*runtime_, {.pid = 12, .uid = 1000});
  const auto first = a.Dispatch(kEcho, Payload(10)), second = a.Dispatch(kEcho, Payload(10));
  const auto third = a.Dispatch(kEcho, Payload(10)), fourth = b.Dispatch(kEcho, Payload(10));
  const auto refusal = [&] {
    return std::string(b.Dispatch(kEcho, Payload(10))->Await().message());
  };
  EXPECT_THAT(refusal(), HasSubstr(absl::StrCat(a->info().id, " of 'test' (process 11): 3")));
  ASSERT_TRUE(a.core().Cancel(*first->task()));
  ASSERT_TRUE(a.core().Cancel(*second->task()));
  const auto fifth = b.Dispatch(kEcho, Payload(10)), sixth = b.Dispatch(kEcho, Payload(10));
  EXPECT_THAT(refusal(), HasSubstr("(process 11): 1"));
  clock_.Advance(absl::Milliseconds(10));
  EXPECT_THAT(refusal(), HasSubstr("(process 12): 3"));
  operations_->LetGo();
}

TEST_F(SessionTest, ABatchIsHeldAgainstTheBoundsAsAWhole) {
  Start({.bounds = {.total = {.items = 100, .bytes = 100'000},
                    .user = {.items = 6, .bytes = 5'000},
                    .session = {.items = 6, .bytes = 3'000}}});
  RemoteSession a(*runtime_, {.pid = 11, .uid = 1000}), b(*runtime_, {.pid = 12, .uid = 1000});
  const auto dispatch = [](RemoteSession& session, size_t count, size_t bytes) {
    std::vector<internal::RuntimeCore::Call> calls;
    for (size_t i = 0; i < count; ++i) {
      calls.push_back({.operation = *session.core().FindOperation(kEcho),
                       .request = std::make_unique<EchoRequest>(Payload(bytes)),
                       .session = session->shared_from_this()});
    }
    return session.core().DispatchBatch(std::move(calls), false).status();
  };
  const auto held = [&](const std::string& holder) {
    for (const BoundStatus& bound : runtime_->GetSnapshot().bounds) {
      if (bound.holder == holder) return bound.held.items;
    }
    return int64_t{-1};
  };
  const absl::Status many = dispatch(a, 7, 10);
  EXPECT_EQ(ReasonOf(many), v1::ERROR_REASON_MESSAGE_TOO_LARGE);
  EXPECT_THAT(std::string(many.message()), HasSubstr("this batch has 7 invocations"));
  const absl::Status large = dispatch(a, 4, 1'000);  // each of them would fit
  EXPECT_EQ(ReasonOf(large), v1::ERROR_REASON_MESSAGE_TOO_LARGE);
  EXPECT_THAT(std::string(large.message()), HasSubstr("may have 3000 bytes unfinished"));
  const auto hold = Hold(b);
  const absl::Status full = dispatch(a, 6, 10);
  EXPECT_EQ(ReasonOf(full), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_THAT(std::string(full.message()), HasSubstr("uid 1000 has 1 of 6"));
  EXPECT_EQ(held("uid 1000"), 1);
  EXPECT_EQ(runtime_->GetSnapshot().ledger.refused, 7u + 4 + 6);
  EXPECT_TRUE(dispatch(a, 5, 10).ok());
  EXPECT_EQ(held("uid 1000"), 6);
  // What is queued of it ends with its session, while the thread is stuck.
  a->End();
  const Ledger::Counts ledger = runtime_->GetSnapshot().ledger;
  EXPECT_EQ(ledger.abandoned, 5u);
  EXPECT_EQ(ledger.queued, 0u);
  EXPECT_EQ(held("uid 1000"), 1);
  EXPECT_EQ(ReasonOf(dispatch(a, 2, 10)), v1::ERROR_REASON_SESSION_ENDED);
  operations_->LetGo();
}

TEST_F(SessionTest, ARoleMayHaveSoManySessionsThatAreOpenOrClosing) {
  Start();
  RemoteSession host(*runtime_);
  const auto hold = Hold(host);
  internal::RuntimeCore& core = host.core();
  const Session::Info camera{.peer = {.pid = 1, .uid = 1000, .role = "camera"}};
  for (int64_t i = 0; i < kMaxRoleSessions; ++i) {
    const auto session = core.OpenPeerSession(camera);
    ASSERT_TRUE(session.ok()) << i;
    (*session)->End();  // closed only by the thread
  }
  const absl::Status full = core.OpenPeerSession(camera).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(full), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_THAT(std::string(full.message()), HasSubstr("role camera has 1024 sessions"));
  EXPECT_TRUE(core.OpenPeerSession({.peer = {.pid = 1, .uid = 1000}}).ok());
  EXPECT_TRUE(core.OpenPeerSession({.peer = {.pid = 1, .uid = 1000, .role = "other"}}).ok());
  operations_->LetGo();
  while (!core.OpenPeerSession(camera).ok()) {
    ASSERT_TRUE(runtime_->context().RunOnRuntimeThreadBlocking([] {}).ok());
  }
}

TEST_F(SessionTest, BytesAreBoundedAndARequestThatNeverFitsSaysSo) {
  Start({.bounds = {.session = {.items = 100, .bytes = 3'000}}});
  RemoteSession host(*runtime_), session(*runtime_);
  const auto hold = Hold(host);
  const auto first = session.Dispatch(kEcho, Payload(2'000));
  const auto second = session.Dispatch(kEcho, Payload(2'000));
  EXPECT_EQ(ReasonOf(second->Await()), v1::ERROR_REASON_QUEUE_FULL);
  const auto third = session.Dispatch(kEcho, Payload(10'000));
  EXPECT_THAT(std::string(third->Await().message()), HasSubstr("never fit"));
  operations_->LetGo();
  ASSERT_TRUE(first->Await().ok());
  EXPECT_TRUE(session.Dispatch(kEcho, Payload(2'000))->Await().ok());
}

TEST_F(SessionTest, CancellingMakesRoomAtOnceAndLeavesNothingInTheQueue) {
  Start({.bounds = {.session = {.items = 2, .bytes = 3'000}}});
  RemoteSession host(*runtime_), session(*runtime_);
  const auto hold = Hold(host);
  for (int i = 0; i < 1000; ++i) {
    const auto call = session.Dispatch(kEcho, Payload(2'000));
    ASSERT_NE(call->task(), nullptr) << call->Await();
    ASSERT_TRUE(session.core().Cancel(*call->task()));
    ASSERT_EQ(call->task().use_count(), 1) << "the queue keeps what was cancelled";
  }
  operations_->LetGo();
}

TEST_F(SessionTest, ANewerDispatchWithTheSameKeyTakesTheOlderOnesPlace) {
  Start();
  RemoteSession host(*runtime_), session(*runtime_), other(*runtime_);
  const auto hold = Hold(host);
  auto record = [](uint64_t index) {
    RecordRequest request;
    request.set_index(index);
    return request;
  };
  const auto first = session.Dispatch(kRecord, record(1), {.coalesce_key = "size"});
  const auto between = session.Dispatch(kRecord, record(2));
  const auto others = other.Dispatch(kRecord, record(3), {.coalesce_key = "size"});
  const auto second = session.Dispatch(kRecord, record(4), {.coalesce_key = "size"});
  const auto another = session.Dispatch(kRecord, record(5), {.coalesce_key = "title"});
  const auto third = session.Dispatch(kRecord, record(6), {.coalesce_key = "size"});
  EXPECT_EQ(ReasonOf(first->Await()), v1::ERROR_REASON_SUPERSEDED);
  EXPECT_EQ(ReasonOf(second->Await()), v1::ERROR_REASON_SUPERSEDED);
  operations_->LetGo();
  for (const auto& call : {between, others, another, third}) EXPECT_TRUE(call->Await().ok());
  std::vector<uint64_t> order;
  for (const auto& [producer, index] : operations_->record()) order.push_back(index);
  EXPECT_THAT(order, ElementsAre(6, 2, 3, 5));
  EXPECT_EQ(runtime_->GetSnapshot().ledger.superseded, 2u);
}

TEST_F(SessionTest, ADispatchThatSupersedesFitsIntoAFullQueue) {
  Start({.bounds = {.session = {.items = 2, .bytes = 3'000}}});
  RemoteSession host(*runtime_), session(*runtime_);
  const auto hold = Hold(host);
  const auto keyed = session.Dispatch(kEcho, Payload(1'000), {.coalesce_key = "k"});
  const auto plain = session.Dispatch(kEcho, Payload(1'000));
  const auto too_large = session.Dispatch(kEcho, Payload(2'500), {.coalesce_key = "k"});
  EXPECT_EQ(ReasonOf(too_large->Await()), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_FALSE(keyed->done()) << "a refused dispatch supersedes nothing";
  const auto never_fits = session.Dispatch(kEcho, Payload(3'500));
  EXPECT_EQ(ReasonOf(never_fits->Await()), v1::ERROR_REASON_MESSAGE_TOO_LARGE)
      << "though there is no room for any";
  const auto fits = session.Dispatch(kEcho, Payload(1'500), {.coalesce_key = "k"});
  EXPECT_EQ(ReasonOf(keyed->Await()), v1::ERROR_REASON_SUPERSEDED);
  operations_->LetGo();
  EXPECT_TRUE(fits->Await().ok());
  EXPECT_TRUE(plain->Await().ok());
}

TEST_F(SessionTest, ADrainClosesWhatSessionsHoldWithTheLoopRunning) {
  Start();
  RemoteSession session(*runtime_);
  MakeThing(session, "a");
  MakeThing(session, "slow", /*closes_slowly=*/true);
  std::thread closer([&] { operations_->FinishClosing(); });
  const Runtime::DrainResult result = runtime_->Drain(absl::Seconds(30));
  closer.join();
  EXPECT_TRUE(result.drained);
  EXPECT_EQ(result.not_closed, 0u);
  EXPECT_THAT(operations_->destroyed(), ElementsAre("slow", "a"));
}

TEST_F(SessionTest, ADrainThatIsCutOffSaysHowMuchItDestroyedAsItWas) {
  Start({.close_timeout = absl::Hours(1)});
  RemoteSession session(*runtime_);
  MakeThing(session, "a");
  MakeThing(session, "slow", /*closes_slowly=*/true);
  const Runtime::DrainResult result = runtime_->Drain(absl::ZeroDuration());
  EXPECT_FALSE(result.drained);
  EXPECT_EQ(result.not_closed, 2u);
  EXPECT_THAT(operations_->destroyed(), ElementsAre("slow", "!a"));
}

}  // namespace
}  // namespace runloop

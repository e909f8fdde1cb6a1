// What a session stream promises, to a worker that speaks the protocol by hand.

#include <gmock/gmock.h>

#include "runloop/daemon/testing/session_stream_fixture.h"

namespace runloop::daemon {
namespace {

using ::testing::HasSubstr;

TEST_F(SessionStreamTest, WelcomesAWorkerWithALimitAndNamesItForPeople) {
  Start({.max_unfinished = 7});
  Worker worker(Connect());
  const v1::Welcome welcome = worker.Open();
  EXPECT_EQ(welcome.version(), 1u);
  EXPECT_EQ(welcome.limits().max_unfinished(), 7u);
  EXPECT_EQ(static_cast<size_t>(welcome.operations_size()), runtime_->operations().List().size());
  EXPECT_FALSE(welcome.resumed());
  const auto sessions = runtime_->GetSnapshot().sessions;
  ASSERT_EQ(sessions.size(), 1u);
  EXPECT_EQ(sessions[0]->info().id, welcome.session_id());
  EXPECT_EQ(sessions[0]->info().client_name, "worker??[31m?\xc2\xa0\xc3\xa4");
  EXPECT_EQ(sessions[0]->info().peer.pid, getpid());
}

TEST_F(SessionStreamTest, DistrustsWhatAWorkerTellsOfItsSource) {
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest request;
  const auto tell = [&](uint32_t id, const std::string& file) {
    v1::CallSite& site = *request.add_call_sites();
    site.set_id(id);
    site.set_file(file);
    site.set_line(7);
    site.set_function(std::string(10'000, 'f'));
  };
  tell(0, "zero.cc");
  tell(2, "evil\n\x1b[31m.cc");
  tell(2, "again.cc");
  tell(257, "many.cc");
  tell(0xFFFF'FFFF, "more.cc");
  // What was never told, what counts for nothing, and what was.
  for (const uint32_t id : {1u, 257u, 0xFFFF'FFFFu}) {
    worker.Add(request, kEcho).set_call_site_id(id);
  }
  worker.Add(request, kHold).set_call_site_id(2);
  ASSERT_TRUE(worker.Send(request));
  operations_->AwaitHeld();
  EXPECT_EQ(runtime_->GetSnapshot().current_call_site,
            "evil??[31m.cc:7 (" + std::string(internal::kMaxCallSiteText, 'f') + ")");
  operations_->LetGo();
  worker.AwaitEnded(4);
  EXPECT_EQ(worker.succeeded_.size(), 4u);

  v1::SessionRequest unknown;
  worker.Add(unknown, kHold).set_call_site_id(3);
  ASSERT_TRUE(worker.Send(unknown));
  operations_->AwaitHeld();
  EXPECT_EQ(runtime_->GetSnapshot().current_call_site, "");
  operations_->LetGo();
  worker.AwaitEnded(5);
}

TEST_F(SessionStreamTest, ATraceParentThatIsNoneIsThatInvocationsOutcome) {
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest request;
  worker.Add(request, kEcho).set_trace_parent("00-0-0-00");
  worker.Add(request, kEcho);
  ASSERT_TRUE(worker.Send(request));
  worker.AwaitEnded(2);
  EXPECT_EQ(worker.ReasonOf(1), v1::ERROR_REASON_INVALID_REQUEST);
  EXPECT_TRUE(worker.succeeded_.contains(2));
}

TEST_F(SessionStreamTest, RefusesVersionsThatItDoesNotSpeak) {
  Start();
  Worker worker(Connect());
  worker.SendHello(2, 5);
  const grpc::Status status = worker.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_VERSION_MISMATCH);
  EXPECT_THAT(status.error_message(), HasSubstr("2 to 5"));
}

TEST_F(SessionStreamTest, EndsAStreamThatBreaksTheRules) {
  Start();
  v1::SessionRequest none, hello, zero, falling;
  hello.mutable_hello()->mutable_versions()->set_min(1);
  hello.mutable_hello()->mutable_versions()->set_max(1);
  zero.add_dispatches()->set_operation_name(kEcho);
  falling.add_dispatches()->set_invocation_id(5);
  falling.add_dispatches()->set_invocation_id(5);
  v1::SessionRequest both = hello;
  both.add_dispatches()->set_invocation_id(1);
  v1::SessionRequest no_version;
  no_version.mutable_hello();
  for (const absl::Status& status :
       {EndAfter(none, false), EndAfter(both, false), EndAfter(no_version, false), EndAfter(hello),
        EndAfter(zero), EndAfter(falling)}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(runloop::ReasonOf(status), v1::ERROR_REASON_PROTOCOL_VIOLATION) << status;
  }
  Await([](const auto& snapshot) { return snapshot.sessions.empty(); });
}

TEST_F(SessionStreamTest, AcknowledgesSuccessesAndSendsRepliesThatWereAskedFor) {
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest request;
  for (uint64_t i = 1; i <= 500; ++i) {
    const test::v1::RecordRequest record = Record(i);
    worker.Add(request, kRecord, &record).set_reply_wanted(i % 100 == 0);
  }
  worker.Send(request);
  worker.HalfClose();
  EXPECT_TRUE(worker.Finish().ok());
  EXPECT_EQ(worker.succeeded_.size(), 495u);
  ASSERT_EQ(worker.outcomes_.size(), 5u);
  test::v1::RecordReply reply;
  ASSERT_TRUE(reply.ParseFromString(worker.outcomes_[300].reply()));
  EXPECT_EQ(reply.position(), 299u);
  const auto record = operations_->record();
  ASSERT_EQ(record.size(), 500u);
  for (uint64_t i = 0; i < 500; ++i) EXPECT_EQ(record[i].second, i + 1);
}

TEST_F(SessionStreamTest, WhatIsWrongWithOneInvocationIsItsOutcome) {
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest request;
  worker.Add(request, "runloop.test.v1.TestOperations/Nothing");
  worker.Add(request, kEcho).set_operation_id(99);
  worker.Add(request, kEcho).set_request("\xff\xff");
  worker.Add(request, kEcho).clear_operation();
  worker.Add(request, kEcho).mutable_timeout()->set_nanos(-2'000'000'000);
  test::v1::ThrowRequest thrown;
  thrown.set_text("oh");
  worker.Add(request, kThrow, &thrown);
  worker.Add(request, kDrop);
  worker.Add(request, kEcho);
  worker.Add(request, kEcho).mutable_delay()->set_nanos(1'000'000'000);
  worker.Add(request, kEcho).mutable_delay()->set_seconds(-315'576'000'001);
  worker.Add(request, kEcho).mutable_delay()->set_seconds(-1);  // as without one
  worker.Send(request);
  worker.AwaitEnded(11);
  EXPECT_EQ(worker.ReasonOf(1), v1::ERROR_REASON_UNKNOWN_OPERATION);
  EXPECT_EQ(worker.ReasonOf(2), v1::ERROR_REASON_UNKNOWN_OPERATION);
  EXPECT_EQ(worker.ReasonOf(3), v1::ERROR_REASON_INVALID_REQUEST);
  EXPECT_EQ(worker.ReasonOf(4), v1::ERROR_REASON_INVALID_REQUEST);
  EXPECT_EQ(worker.ReasonOf(5), v1::ERROR_REASON_INVALID_REQUEST);
  EXPECT_EQ(worker.ReasonOf(6), v1::ERROR_REASON_HANDLER_THREW);
  EXPECT_EQ(worker.ReasonOf(7), v1::ERROR_REASON_COMPLETION_DROPPED);
  EXPECT_TRUE(worker.succeeded_.contains(8));
  EXPECT_EQ(worker.ReasonOf(9), v1::ERROR_REASON_INVALID_REQUEST);
  EXPECT_EQ(worker.ReasonOf(10), v1::ERROR_REASON_INVALID_REQUEST);
  EXPECT_TRUE(worker.succeeded_.contains(11));
}

TEST_F(SessionStreamTest, CancelsWhatHasNotStarted) {
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest request;
  worker.Add(request, kHold);
  worker.Add(request, kRecord);
  worker.Add(request, kRecord);
  worker.Send(request);
  operations_->AwaitHeld();
  v1::SessionRequest cancel;
  for (const uint64_t id : {1, 3, 77}) cancel.add_cancels()->set_invocation_id(id);
  worker.Send(cancel);
  worker.AwaitEnded(1);
  EXPECT_EQ(worker.ReasonOf(3), v1::ERROR_REASON_CANCELLED);
  operations_->LetGo();
  worker.AwaitEnded(3);
  EXPECT_EQ(worker.succeeded_, (std::set<uint64_t>{1, 2}));
  EXPECT_EQ(operations_->record().size(), 1u);
}

TEST_F(SessionStreamTest, WhatIsGivenUpWhileItRunsIsToldAtOnceAndItsEndHoldsNobodyUp) {
  Start();
  Worker worker(Connect()), other(Connect());
  worker.Open();
  other.Open();
  v1::SessionRequest defer;
  worker.Add(defer, kDefer);
  worker.Send(defer);
  Completion<test::v1::DeferReply> completion = operations_->TakeDeferred();
  v1::SessionRequest give_up;
  give_up.add_cancels()->set_invocation_id(1);
  give_up.mutable_cancels(0)->set_give_up(true);
  worker.Send(give_up);
  worker.AwaitEnded(1);
  EXPECT_EQ(worker.ReasonOf(1), v1::ERROR_REASON_STILL_RUNNING);

  v1::SessionRequest hold;
  other.Add(hold, kHold);
  other.Send(hold);
  operations_->AwaitHeld();
  v1::SessionRequest echo;
  worker.Add(echo, kEcho);
  worker.Send(echo);
  while (runtime_->GetSnapshot().ledger.queued == 0) std::this_thread::yield();
  completion.Finish(test::v1::DeferReply());  // nobody is told
  // By the time that a refusal has come the stream's thread has seen that.
  v1::SessionRequest refused;
  other.Add(refused, "a.B/C");
  other.Send(refused);
  other.AwaitEnded(1);
  operations_->LetGo();
  worker.AwaitEnded(2);
  EXPECT_TRUE(worker.succeeded_.contains(2));
}

TEST_F(SessionStreamTest, WhatIsGivenUpTwiceReleasesWhatItMakesOnceItEndsAndNotBefore) {
  struct Thing {
    explicit Thing(std::atomic<bool>& is_gone) : gone(is_gone) {}
    ~Thing() { gone = true; }
    std::atomic<bool>& gone;
  };
  std::atomic<bool> gone{false};
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest defer;
  worker.Add(defer, kDefer);
  worker.Send(defer);
  Completion<test::v1::DeferReply> completion = operations_->TakeDeferred();
  const auto kept = runtime_->context().RunOnRuntimeThreadBlocking(
      [&] { return completion.Keep(std::make_unique<Thing>(gone)).status(); });
  ASSERT_TRUE(kept.ok()) << kept;
  v1::SessionRequest give_up;
  give_up.add_cancels()->set_invocation_id(1);
  give_up.mutable_cancels(0)->set_give_up(true);
  worker.Send(give_up);
  worker.AwaitEnded(1);
  EXPECT_EQ(worker.ReasonOf(1), v1::ERROR_REASON_STILL_RUNNING);
  v1::SessionRequest again = give_up;
  worker.Add(again, kEcho);
  worker.Send(again);
  worker.AwaitEnded(2);
  // Behind whatever that would have had run.
  EXPECT_TRUE(runtime_->context().RunOnRuntimeThreadBlocking([] {}).ok());
  EXPECT_FALSE(gone);
  completion.Finish(test::v1::DeferReply());
  while (!gone) std::this_thread::yield();
}

TEST_F(SessionStreamTest, WhatHasNotStartedAtItsDeadlineNeverRuns) {
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest request;
  worker.Add(request, kHold);
  worker.Add(request, kRecord).mutable_timeout()->set_nanos(1'000'000);
  worker.Send(request);
  worker.AwaitEnded(1);
  EXPECT_EQ(worker.ReasonOf(2), v1::ERROR_REASON_EXPIRED);
  operations_->LetGo();
  worker.AwaitEnded(2);
  EXPECT_TRUE(operations_->record().empty());
}

TEST_F(SessionStreamTest, AnUnfinishedOneHoldsNobodyBack) {
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest request;
  worker.Add(request, kDefer).set_reply_wanted(true);
  for (int i = 0; i < 100; ++i) worker.Add(request, kEcho);
  worker.Send(request);
  worker.AwaitEnded(100);
  EXPECT_FALSE(worker.succeeded_.contains(1));
  test::v1::DeferReply reply;
  reply.set_text("late");
  operations_->TakeDeferred().Finish(reply);
  worker.AwaitEnded(101);
  EXPECT_EQ(worker.outcomes_.count(1), 1u);
}

TEST_F(SessionStreamTest, ABrokenStreamEndsTheSessionAndItsQueuedWork) {
  Start();
  {
    Worker worker(Connect());
    worker.Open();
    v1::SessionRequest request;
    worker.Add(request, kRecord);
    worker.Add(request, kHold);
    worker.Add(request, kRecord);
    worker.Send(request);
    operations_->AwaitHeld();
    worker.Break();
  }
  Await([](const auto& snapshot) {
    return snapshot.sessions.empty() || snapshot.sessions[0]->ended();
  });
  operations_->LetGo();
  operations_->AwaitEndedSessions(1);
  Await([](const auto& snapshot) { return snapshot.ledger.abandoned == 1; });
  EXPECT_EQ(operations_->record().size(), 1u);
}

TEST_F(SessionStreamTest, AHalfClosedStreamGetsAllItsOutcomes) {
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest request;
  worker.Add(request, kHold);
  worker.Add(request, kRecord);
  worker.Send(request);
  worker.HalfClose();
  operations_->AwaitHeld();
  operations_->LetGo();
  EXPECT_TRUE(worker.Finish().ok());
  EXPECT_EQ(worker.succeeded_.size(), 2u);
  operations_->AwaitEndedSessions(1);
}

TEST_F(SessionStreamTest, AWorkerThatReadsLateGetsEverything) {
  Start();
  Worker worker(Connect());
  worker.Open();
  // More than the daemon keeps unsent: it stops reading until the worker does.
  constexpr int kCount = 150;
  std::thread writer([&worker] {
    test::v1::EchoRequest echo;
    echo.set_text(std::string(1 << 20, 'x'));
    for (int i = 0; i < kCount; ++i) {
      v1::SessionRequest request;
      worker.Add(request, kEcho, &echo).set_reply_wanted(true);
      EXPECT_TRUE(worker.Send(request));
    }
    worker.HalfClose();
  });
  Await([](const auto& snapshot) { return snapshot.ledger.succeeded >= 32; });
  while (worker.outcomes_.size() < kCount) ASSERT_TRUE(worker.Read());
  writer.join();
  EXPECT_TRUE(worker.Finish().ok());
}

TEST_F(SessionStreamTest, OutcomesThatGatherWhileOneIsWrittenGoInOneMessage) {
  Start();
  Worker worker(Connect());
  worker.Open();
  // Larger than what the connection takes before it is read: its message is being written until
  // then.
  test::v1::DeferReply large;
  large.set_text(std::string(8 << 20, 'x'));
  v1::SessionRequest request;
  worker.Add(request, kDefer).set_reply_wanted(true);
  worker.Send(request);
  operations_->TakeDeferred().Finish(std::move(large));
  constexpr int kCount = 1000;
  request.Clear();
  for (int i = 0; i < kCount; ++i) worker.Add(request, kRecord);
  worker.Send(request);
  // An outcome is told before it is counted.
  Await([](const auto& snapshot) { return snapshot.ledger.succeeded == kCount + 1; });
  worker.AwaitEnded(kCount + 1);
  EXPECT_LE(worker.messages_, 2);
  worker.HalfClose();
  EXPECT_TRUE(worker.Finish().ok());
}

TEST_F(SessionStreamTest, PlainCallsJoinASessionOfTheSameProcessOnly) {
  Start();
  Worker worker(Connect());
  const std::string id = worker.Open().session_id();
  const auto stub = test::v1::TestOperations::NewStub(Connect());
  test::v1::RecordReply reply;
  grpc::ClientContext joins;
  joins.AddMetadata("runloop-session", id);
  EXPECT_TRUE(stub->Record(&joins, {}, &reply).ok());
  EXPECT_EQ(runtime_->GetSnapshot().sessions.size(), 1u);  // no implicit one
  grpc::ClientContext unknown;
  unknown.AddMetadata("runloop-session", "s999");
  const grpc::Status refused = stub->Record(&unknown, {}, &reply);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_UNKNOWN_SESSION);
  worker.HalfClose();
  EXPECT_TRUE(worker.Finish().ok());
  operations_->AwaitEndedSessions(1);
  EXPECT_EQ(operations_->ended_sessions()[0], id);
}

TEST_F(SessionStreamTest, ADrainIsAnnouncedAndEndsTheStreamWhenItsWorkIsDone) {
  Start();
  Worker idle(Connect()), busy(Connect());
  idle.Open();
  busy.Open();
  v1::SessionRequest request;
  busy.Add(request, kHold);
  busy.Send(request);
  operations_->AwaitHeld();
  Runtime::DrainResult result;
  std::thread drain([&] { result = host_->Drain(absl::Seconds(60)); });
  const grpc::Status ended = idle.Finish();
  EXPECT_TRUE(idle.draining_);
  EXPECT_EQ(ReasonOf(ended), v1::ERROR_REASON_DRAINING);
  while (!busy.draining_) ASSERT_TRUE(busy.Read());
  v1::SessionRequest late;
  busy.Add(late, kRecord);
  busy.Send(late);
  busy.AwaitEnded(1);
  EXPECT_EQ(busy.ReasonOf(2), v1::ERROR_REASON_DRAINING);
  operations_->LetGo();
  EXPECT_EQ(busy.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(busy.succeeded_.contains(1));
  drain.join();
  EXPECT_TRUE(result.drained);
}

TEST_F(SessionStreamTest, AWorkerThatReadsNoNotificationsHoldsNoDrainUp) {
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest request;
  request.add_subscribes()->set_subscription_id(1);
  request.mutable_subscribes(0)->set_topic_name(kEvery);
  worker.Send(request);
  Await([](const auto& snapshot) { return snapshot.topics[0]->statistics().subscriptions == 1; });
  test::v1::Item item;
  item.set_text(std::string(4000, 'x'));
  // More than the connection holds.
  for (int i = 0; i < 250; ++i) ASSERT_TRUE(runtime_->context().Publish(kEvery, item).ok());
  EXPECT_TRUE(host_->Drain(absl::InfiniteDuration()).drained);
  EXPECT_FALSE(worker.Finish().ok());
}

TEST_F(SessionStreamTest, StreamsThatAreOpenWhenTheHostGoesEnd) {
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest request;
  worker.Add(request, kDefer);
  worker.Send(request);
  Completion<test::v1::DeferReply> deferred = operations_->TakeDeferred();
  host_.reset();
  EXPECT_FALSE(worker.Finish().ok());
  deferred.Finish(test::v1::DeferReply());  // its stream and server have gone
}

}  // namespace
}  // namespace runloop::daemon

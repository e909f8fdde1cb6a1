// What a session stream takes of a worker, at most, and gives it.

#include <gmock/gmock.h>

#include "runloop/daemon/testing/session_stream_fixture.h"
#include "runloop/runtime/core.h"

namespace runloop::daemon {
namespace {

using ::testing::HasSubstr;

class SessionStreamBoundsTest : public SessionStreamTest {};

TEST_F(SessionStreamBoundsTest, KeepsNoMorePlacesOfASessionThanItMay) {
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest request;
  for (int round = 0; round < 4; ++round) {
    for (uint32_t id = 1; id <= 300; ++id) {
      v1::CallSite& site = *request.add_call_sites();
      site.set_id(id);
      site.set_file(absl::StrCat("file", round, ".cc"));
      site.set_line(id);
    }
  }
  worker.Add(request, kHold).set_call_site_id(256);
  ASSERT_TRUE(worker.Send(request));
  operations_->AwaitHeld();
  EXPECT_EQ(runtime_->GetSnapshot().current_call_site, "file0.cc:256");
  const auto sessions = runtime_->GetSnapshot().sessions;
  ASSERT_EQ(sessions.size(), 1u);
  EXPECT_EQ(const_cast<Session&>(*sessions[0]).call_sites().Keep("another.cc", 1, ""), nullptr);
  operations_->LetGo();
  worker.AwaitEnded(1);
}

TEST_F(SessionStreamBoundsTest, AUserMayHaveSoManySessions) {
  Start();
  std::vector<std::shared_ptr<Session>> sessions;
  for (int64_t i = 0; i < kMaxUserSessions; ++i) {
    sessions.push_back(*runtime_->core()->OpenPeerSession({.peer = {.pid = 1, .uid = geteuid()}}));
  }
  const auto stub = test::v1::TestOperations::NewStub(Connect());
  const auto call = [&] {
    grpc::ClientContext context;
    test::v1::EchoReply reply;
    return stub->Echo(&context, {}, &reply);
  };
  Worker refused(Connect());
  refused.SendHello();
  for (const grpc::Status& status : {refused.Finish(), call()}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_QUEUE_FULL);
  }
  sessions.back()->End();
  Await([](const auto& snapshot) { return snapshot.sessions.size() < kMaxUserSessions; });
  EXPECT_TRUE(call().ok());
}

TEST_F(SessionStreamBoundsTest, ALongTextOfAnErrorIsCutAndManyOfThemArrive) {
  Start();
  Worker worker(Connect());
  worker.Open();
  constexpr int kCount = 20'000;
  test::v1::ThrowRequest thrown;
  for (int i = 0; i < 1024; ++i) thrown.mutable_text()->append("\xf0\x9f\x98\x80");
  std::thread writer([&] {
    for (int sent = 0; sent < kCount;) {
      v1::SessionRequest request;
      for (int i = 0; i < 200; ++i, ++sent) worker.Add(request, kThrow, &thrown);
      EXPECT_TRUE(worker.Send(request));
    }
    worker.HalfClose();
  });
  while (worker.ReadOutcomes()) {
  }
  writer.join();
  EXPECT_EQ(worker.outcomes_.size(), static_cast<size_t>(kCount));
  for (const auto& [id, outcome] : worker.outcomes_) {
    ASSERT_EQ(worker.ReasonOf(id), v1::ERROR_REASON_HANDLER_THREW);
    ASSERT_LE(outcome.status().message().size(), 1024u);
  }
}

TEST_F(SessionStreamBoundsTest, AReplyThatIsLargerThanAMessageIsAnErrorThatNamesTheOperation) {
  Start({.max_message_bytes = 4096});
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest request;
  worker.Add(request, kDefer).set_reply_wanted(true);
  worker.Add(request, kDefer).set_reply_wanted(true);
  worker.Send(request);
  test::v1::DeferReply reply;
  reply.set_text(std::string(4096 - 64 - 3, 'x'));  // with its tag and length as much as may be
  operations_->TakeDeferred().Finish(reply);
  reply.mutable_text()->push_back('x');
  operations_->TakeDeferred().Finish(reply);
  worker.AwaitEnded(2);
  EXPECT_TRUE(worker.outcomes_[1].has_reply());
  EXPECT_EQ(worker.ReasonOf(2), v1::ERROR_REASON_MESSAGE_TOO_LARGE);
  EXPECT_EQ(worker.MetadataOf(2)["operation"], kDefer);
  EXPECT_EQ(worker.outcomes_[2].status().message().rfind(kDefer, 0), 0u);
}

TEST_F(SessionStreamBoundsTest, AMessageWithFarMoreThanMayBeUnfinishedEndsTheStream) {
  Start({.max_unfinished = 600});
  v1::SessionRequest dispatches, cancels;
  for (uint64_t id = 1; id <= 1201; ++id) {
    dispatches.add_dispatches()->set_invocation_id(id);
    cancels.add_cancels()->set_invocation_id(id);
  }
  for (const absl::Status& status : {EndAfter(dispatches), EndAfter(cancels)}) {
    EXPECT_EQ(runloop::ReasonOf(status), v1::ERROR_REASON_PROTOCOL_VIOLATION) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("at most 1200 of each"));
  }
  Worker worker(Connect());
  worker.Open();
  cancels.mutable_cancels()->RemoveLast();
  worker.Send(cancels);
  worker.HalfClose();
  EXPECT_TRUE(worker.Finish().ok());
}

TEST_F(SessionStreamBoundsTest, AMessageThatWouldBeFarLargerInMemoryEndsTheStreamUnparsed) {
  Start({.max_unfinished = 600});
  v1::SessionRequest empty, links, unknown, other_type, transports;
  for (int i = 0; i < 50'000; ++i) empty.add_dispatches();
  links.add_waiting()->set_invocation_id(1);
  for (int i = 0; i < 50'000; ++i) links.mutable_waiting(0)->add_chain();
  for (int i = 0; i < 50'000; ++i) {
    unknown.GetReflection()->MutableUnknownFields(&unknown)->AddVarint(1000, 1);
  }
  // A known field, but for its wire type.
  v1::Dispatch& dispatch = *other_type.add_dispatches();
  dispatch.set_invocation_id(1);
  for (int i = 0; i < 50'000; ++i) {
    dispatch.GetReflection()->MutableUnknownFields(&dispatch)->AddVarint(
        v1::Dispatch::kCoalesceKeyFieldNumber, 1);
  }
  // Packed, a byte each.
  for (int i = 0; i < 100'000; ++i) {
    transports.mutable_hello()->add_transports(v1::TRANSPORT_STREAM);
  }
  for (const v1::SessionRequest* request : {&empty, &links, &unknown, &other_type, &transports}) {
    const absl::Status status = EndAfter(*request, request != &transports);
    EXPECT_EQ(runloop::ReasonOf(status), v1::ERROR_REASON_PROTOCOL_VIOLATION) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("more than 4800 messages"));
  }
}

TEST_F(SessionStreamBoundsTest, ARequestThatIsFarLargerInMemoryCountsAsThat) {
  Start();
  Worker worker(Connect());
  worker.Open();
  v1::SessionRequest hold;
  worker.Add(hold, kHold);
  worker.Send(hold);
  operations_->AwaitHeld();
  test::v1::EchoRequest echo;
  constexpr int kFields = 1'000'000;  // 2 bytes each, 16 and more in memory
  for (int i = 0; i < kFields; ++i) {
    echo.GetReflection()->MutableUnknownFields(&echo)->AddVarint(15, 1);
  }
  const auto held = [](const Runtime::Snapshot& snapshot) { return snapshot.bounds[0].held; };
  v1::SessionRequest request;
  worker.Add(request, kEcho, &echo);
  worker.Send(request);
  std::thread plain([&] {
    grpc::ClientContext context;
    test::v1::EchoReply reply;
    EXPECT_TRUE(test::v1::TestOperations::NewStub(Connect())->Echo(&context, echo, &reply).ok());
  });
  std::thread by_name([&] {
    grpc::ClientContext context;
    v1::DispatchRequest dispatch;
    dispatch.set_operation(kEcho);
    dispatch.set_request(echo.SerializeAsString());
    v1::DispatchResponse response;
    EXPECT_TRUE(v1::Dispatcher::NewStub(Connect())->Dispatch(&context, dispatch, &response).ok());
    EXPECT_TRUE(response.has_reply());
  });
  const auto snapshot = Await([&](const auto& now) { return held(now).items == 4; });
  EXPECT_GE(held(snapshot).bytes, 3 * 4 * kFields);
  v1::SessionRequest more;
  worker.Add(more, kEcho).set_request(std::string(30'000'000, '\x78'));  // x: field 15, 120
  worker.Send(more);
  worker.AwaitEnded(1);
  EXPECT_EQ(worker.ReasonOf(3), v1::ERROR_REASON_MESSAGE_TOO_LARGE);
  operations_->LetGo();
  plain.join();
  by_name.join();
}

TEST_F(SessionStreamBoundsTest, RefusesMoreThanItsBoundOfUnfinishedOnes) {
  Start({.max_unfinished = 3});
  Worker worker(Connect());
  const std::string session = worker.Open().session_id();
  v1::SessionRequest request;
  worker.Add(request, kHold);
  for (int i = 0; i < 4; ++i) worker.Add(request, kEcho);
  worker.Send(request);
  worker.AwaitEnded(2);
  EXPECT_EQ(worker.ReasonOf(4), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_EQ(worker.ReasonOf(5), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_EQ(worker.MetadataOf(4), (std::map<std::string, std::string>{
                                      {"bound", "session"}, {"limit", "3"}, {"session", session}}));
  operations_->LetGo();
  worker.AwaitEnded(5);
  EXPECT_EQ(worker.succeeded_, (std::set<uint64_t>{1, 2, 3}));
}

}  // namespace
}  // namespace runloop::daemon

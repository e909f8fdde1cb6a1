#include "runloop/daemon/host.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/socket.h>

#include "absl/synchronization/notification.h"
#include "runloop/daemon/testing/host_fixture.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/runtime/hosted_addresses.h"
#include "runloop/tests/testing/fake_clock.h"

namespace runloop::daemon {
namespace {

// What a program of one's own does to offer operations to other processes.
int EmbeddedHost(const std::string& socket) {
  runloop::OperationRegistry operations;
  absl::Status added = operations.Register<test::v1::EchoRequest, test::v1::EchoReply>(
      "runloop.test.v1.TestOperations/Echo",
      [](runloop::OperationContext&, test::v1::EchoRequest request) {
        test::v1::EchoReply reply;
        reply.set_text(request.text());
        return absl::StatusOr<test::v1::EchoReply>(reply);
      });
  if (!added.ok()) return 1;
  auto runtime = runloop::Runtime::Create({.operations = std::move(operations)});
  if (!runtime.ok()) return 1;
  auto host = runloop::Host::Start(**runtime, {.listen = socket});
  return host.ok() ? (*host)->ServeUntilSignal() : 1;
}

class HostTest : public HostFixture {};

TEST_F(HostTest, EmbedsInAProgramInUnderFifteenLines) {
  std::thread worker([this] {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    test::v1::EchoRequest request;
    request.set_text("hello");
    test::v1::EchoReply reply;
    EXPECT_TRUE(test::v1::TestOperations::NewStub(Connect())->Echo(&context, request, &reply).ok());
    EXPECT_EQ(reply.text(), "hello");
    kill(getpid(), SIGTERM);
  });
  EXPECT_EQ(EmbeddedHost(directory_ + "/s"), 0);
  worker.join();
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/s"));
}

TEST_F(HostTest, ServesUntilASignalWhileTheRuntimeHasItsOwnThread) {
  Start();
  std::thread worker([this] {
    const auto stub = test::v1::TestOperations::NewStub(Connect());
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    test::v1::EchoReply reply;
    EXPECT_TRUE(stub->Echo(&context, {}, &reply).ok());
    EXPECT_TRUE(reply.on_runtime_thread());
    // The runtime serves before anybody waits for signals.
    struct sigaction now {};
    while (sigaction(SIGINT, nullptr, &now) == 0 && now.sa_handler == SIG_DFL) {
      std::this_thread::yield();
    }
    kill(getpid(), SIGINT);
  });
  EXPECT_EQ(host_->ServeUntilSignal(), 0);
  worker.join();
}

TEST_F(HostTest, ActsOnASignalBeforeItLogsIt) {
  absl::Notification drains;
  Start({.log = [&](LogSeverity, std::string_view line) {
    if (line.substr(0, 7) == "signal ") drains.WaitForNotification();
  }});
  std::thread killer([&] {
    struct sigaction now {};
    while (sigaction(SIGINT, nullptr, &now) == 0 && now.sa_handler == SIG_DFL) {
      std::this_thread::yield();
    }
    kill(getpid(), SIGINT);
    Await([](const auto& snapshot) { return snapshot.draining; });
    // The owner closes while the sink still blocks.
    while (FindHostedAddress("unix:" + directory_ + "/s").has_value()) std::this_thread::yield();
    drains.Notify();
  });
  EXPECT_EQ(host_->ServeUntilSignal(), 0);
  killer.join();
}

TEST_F(HostTest, ALogThatBlocksStopsNobody) {
  absl::Notification blocks, may_go_on;
  Start({.log = [&](LogSeverity, std::string_view) {
    if (!blocks.HasBeenNotified()) blocks.Notify();
    may_go_on.WaitForNotification();
  }});
  const UniqueFd strange = *ConnectUnix({.path = directory_ + "/s"});
  ASSERT_EQ(SendWithFds(strange.get(), "X", {})->bytes, 1u);
  blocks.WaitForNotification();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  test::v1::EchoReply reply;
  EXPECT_TRUE(test::v1::TestOperations::NewStub(Connect())->Echo(&context, {}, &reply).ok());
  may_go_on.Notify();
  host_.reset();
}

TEST_F(HostTest, IsFoundByItsOwnProcess) {
  Start();
  const std::string address = "unix:" + directory_ + "/s";
  EXPECT_THAT(host_->addresses(), testing::ElementsAre(address));
  EXPECT_TRUE(FindHostedAddress(address).has_value());
  host_.reset();
  EXPECT_FALSE(FindHostedAddress(address).has_value());
}

TEST_F(HostTest, RefusesAnAddressThatAnotherHostHas) {
  Start();
  const auto second = Host::Start(*runtime_, {.listen = directory_ + "/s"});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(HostTest, AnUnknownMethodSaysSo) {
  Start();
  grpc::ClientContext context;
  v1::DispatchRequest request;
  request.set_operation("runloop.test.v1.TestOperations/Nothing");
  v1::DispatchResponse response;
  const grpc::Status status =
      v1::Dispatcher::NewStub(Connect())->Dispatch(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_UNKNOWN_OPERATION);

  grpc::ClientContext plain;
  test::v1::StreamReply reply;
  auto writer = test::v1::TestOperations::NewStub(Connect())->Stream(&plain, &reply);
  EXPECT_EQ(ReasonOf(writer->Finish()), v1::ERROR_REASON_UNKNOWN_OPERATION);
}

TEST_F(HostTest, DispatchTellsRefusalAndOutcomeApart) {
  Start();
  const auto stub = v1::Dispatcher::NewStub(Connect());
  v1::DispatchRequest request;
  v1::DispatchResponse response;
  request.set_operation(kFail);
  test::v1::FailRequest fail;
  fail.set_code(static_cast<int>(absl::StatusCode::kNotFound));
  fail.set_message("not here");
  request.set_request(fail.SerializeAsString());
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->Dispatch(&context, request, &response).ok());
    EXPECT_EQ(response.status().message(), "not here");
  }
  request.set_request("\xff\xff");
  grpc::ClientContext context;
  const grpc::Status status = stub->Dispatch(&context, request, &response);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_INVALID_REQUEST);
}

constexpr char kTrace[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kOtherTrace[] = "00-11111111111111111111111111111111-2222222222222222-00";

TEST_F(HostTest, APlainCallBringsItsTraceContextInItsHeaderAndAnInvalidOneIsNone) {
  Start();
  for (const std::string header : {kTrace, "00-not-one-at-all"}) {
    std::thread caller([&] {
      grpc::ClientContext context;
      context.AddMetadata("traceparent", header);
      test::v1::HoldReply reply;
      EXPECT_TRUE(test::v1::TestOperations::NewStub(Connect())->Hold(&context, {}, &reply).ok());
    });
    operations_->AwaitHeld();
    EXPECT_EQ(runtime_->GetSnapshot().current_trace_id, header == kTrace ? kTraceId : "");
    EXPECT_EQ(runtime_->GetSnapshot().current_call_site, "");
    operations_->LetGo();
    caller.join();
  }
}

TEST_F(HostTest, DispatchByNameSaysWhereItComesFrom) {
  Start();
  const auto stub = v1::Dispatcher::NewStub(Connect());
  v1::DispatchRequest request;
  request.set_operation(kHold);
  request.mutable_call_site()->set_file("a\n.py");
  request.mutable_call_site()->set_line(3);
  request.set_trace_parent(kTrace);
  std::thread caller([&] {
    grpc::ClientContext context;
    context.AddMetadata("traceparent", kOtherTrace);
    v1::DispatchResponse response;
    EXPECT_TRUE(stub->Dispatch(&context, request, &response).ok());
  });
  operations_->AwaitHeld();
  EXPECT_EQ(runtime_->GetSnapshot().current_trace_id, kTraceId);
  EXPECT_EQ(runtime_->GetSnapshot().current_call_site, "a?.py:3");
  operations_->LetGo();
  caller.join();

  request.set_trace_parent("00-not-one-at-all");
  grpc::ClientContext context;
  v1::DispatchResponse response;
  EXPECT_EQ(ReasonOf(stub->Dispatch(&context, request, &response)),
            v1::ERROR_REASON_INVALID_REQUEST);
}

TEST_F(HostTest, ATimeoutThatIsNotPositiveIsNone) {
  Start();
  const auto stub = v1::Dispatcher::NewStub(Connect());
  for (const int nanos : {0, -5}) {
    grpc::ClientContext context;
    v1::DispatchRequest request;
    request.set_operation(kEcho);
    request.mutable_timeout()->set_nanos(nanos);
    v1::DispatchResponse response;
    ASSERT_TRUE(stub->Dispatch(&context, request, &response).ok());
    EXPECT_TRUE(response.has_reply()) << nanos;
  }
}

TEST_F(HostTest, APlainCallHasADeadlineThoughNobodyGaveItOne) {
  FakeClock clock;
  OperationRegistry registry;
  operations_ = TestOperations::Register(registry);
  const LogSink quiet = [](LogSeverity, std::string_view) {};
  runtime_ = *Runtime::Create({.operations = std::move(registry),
                               .thread = RuntimeThread::kSpawn,
                               .clock = &clock,
                               .log = quiet});
  host_ = *Host::Start(*runtime_, {.listen = directory_ + "/s", .log = quiet});
  const RuntimeContext local = runtime_->context().AsRuntimeContext();
  const Invocation hold = local.DispatchAsync(kHold, test::v1::HoldRequest());
  operations_->AwaitHeld();
  std::thread caller([&] {
    grpc::ClientContext context;
    test::v1::EchoReply reply;
    const grpc::Status expired =
        test::v1::TestOperations::NewStub(Connect())->Echo(&context, {}, &reply);
    EXPECT_EQ(expired.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_EQ(ReasonOf(expired), v1::ERROR_REASON_EXPIRED);
  });
  std::thread by_name([&] {
    grpc::ClientContext context;
    v1::DispatchRequest request;
    request.set_operation(kEcho);
    v1::DispatchResponse response;
    EXPECT_TRUE(v1::Dispatcher::NewStub(Connect())->Dispatch(&context, request, &response).ok());
    EXPECT_EQ(runloop::ReasonOf(FromProto(response.status())), v1::ERROR_REASON_EXPIRED);
  });
  Await([](const auto& snapshot) { return snapshot.ledger.queued == 2; });
  clock.Advance(absl::Seconds(30));
  caller.join();
  by_name.join();
  operations_->LetGo();
  EXPECT_TRUE(hold.Await().ok());
  host_.reset();
  runtime_.reset();
}

TEST_F(HostTest, DispatchStopsWaitingAtItsTimeout) {
  Start();
  const auto stub = v1::Dispatcher::NewStub(Connect());
  std::thread holder([&] {
    grpc::ClientContext context;
    v1::DispatchRequest request;
    request.set_operation(kHold);
    request.mutable_timeout()->set_nanos(50'000'000);
    v1::DispatchResponse response;
    ASSERT_TRUE(stub->Dispatch(&context, request, &response).ok());
    EXPECT_EQ(runloop::ReasonOf(FromProto(response.status())), v1::ERROR_REASON_STILL_RUNNING);
  });
  operations_->AwaitHeld();
  {
    grpc::ClientContext context;
    v1::DispatchRequest request;
    request.set_operation(kEcho);
    request.mutable_timeout()->set_nanos(10'000'000);
    v1::DispatchResponse response;
    ASSERT_TRUE(stub->Dispatch(&context, request, &response).ok());
    EXPECT_EQ(runloop::ReasonOf(FromProto(response.status())), v1::ERROR_REASON_EXPIRED);
  }
  holder.join();
  operations_->LetGo();
}

TEST_F(HostTest, DispatchWithADelayAnswersWhenItHasRun) {
  Start();
  const auto stub = v1::Dispatcher::NewStub(Connect());
  v1::DispatchRequest request;
  request.set_operation(kEcho);
  request.mutable_delay()->set_nanos(20'000'000);
  v1::DispatchResponse response;
  const absl::Time begin = Clock::Monotonic()->Now();
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->Dispatch(&context, request, &response).ok());
  }
  EXPECT_TRUE(response.has_reply());
  EXPECT_GE(Clock::Monotonic()->Now(), begin + absl::Milliseconds(20));
  request.mutable_delay()->set_seconds(3600);
  request.mutable_timeout()->set_nanos(10'000'000);
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->Dispatch(&context, request, &response).ok());
  }
  EXPECT_EQ(runloop::ReasonOf(FromProto(response.status())), v1::ERROR_REASON_EXPIRED);
  request.mutable_delay()->set_nanos(-1);
  grpc::ClientContext context;
  EXPECT_EQ(stub->Dispatch(&context, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(HostTest, ACallThatIsCancelledWhileItWaitsNeverRuns) {
  Start();
  const auto stub = test::v1::TestOperations::NewStub(Connect());
  std::thread holder([&] {
    grpc::ClientContext context;
    test::v1::HoldReply reply;
    EXPECT_TRUE(stub->Hold(&context, {}, &reply).ok());
  });
  operations_->AwaitHeld();
  grpc::ClientContext context;
  std::thread canceller([&] {
    Await([](const Runtime::Snapshot& snapshot) { return snapshot.ledger.queued == 1; });
    context.TryCancel();
  });
  test::v1::RecordReply reply;
  EXPECT_EQ(stub->Record(&context, {}, &reply).error_code(), grpc::StatusCode::CANCELLED);
  canceller.join();
  Await([](const Runtime::Snapshot& snapshot) { return snapshot.ledger.cancelled == 1; });
  operations_->LetGo();
  holder.join();
  EXPECT_TRUE(operations_->record().empty());
}

TEST_F(HostTest, ACallThatRunsWhenItsCallerGoesHarmsNobody) {
  Start();
  auto channel = Connect();
  const auto stub = test::v1::TestOperations::NewStub(channel);
  grpc::ClientContext context;
  std::thread canceller([&] {
    operations_->AwaitHeld();
    context.TryCancel();
  });
  test::v1::HoldReply held;
  EXPECT_EQ(stub->Hold(&context, {}, &held).error_code(), grpc::StatusCode::CANCELLED);
  canceller.join();
  operations_->LetGo();
  grpc::ClientContext next;
  test::v1::EchoReply reply;
  EXPECT_TRUE(stub->Echo(&next, {}, &reply).ok());
}

TEST_F(HostTest, AMessageOverTheLimitIsRefusedAndTheNextOneServed) {
  Start({.max_message_bytes = 10'000});
  const auto stub = test::v1::TestOperations::NewStub(Connect());
  test::v1::EchoRequest request;
  test::v1::EchoReply reply;
  request.set_payload(std::string(20'000, 'x'));
  grpc::ClientContext large;
  EXPECT_EQ(stub->Echo(&large, request, &reply).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  request.set_payload("x");
  grpc::ClientContext small;
  EXPECT_TRUE(stub->Echo(&small, request, &reply).ok());
}

TEST_F(HostTest, AMessageOverGrpcsOwnLimitIsServedAndTheLimitIsListed) {
  Start();
  const auto channel = Connect();
  test::v1::EchoRequest request;
  test::v1::EchoReply reply;
  request.set_payload(std::string(size_t{5} << 20, 'x'));
  grpc::ClientContext large;
  const grpc::Status echoed =
      test::v1::TestOperations::NewStub(channel)->Echo(&large, request, &reply);
  EXPECT_TRUE(echoed.ok()) << echoed.error_message();
  grpc::ClientContext look;
  v1::GetStatusResponse status;
  ASSERT_TRUE(v1::Diagnostics::NewStub(channel)->GetStatus(&look, {}, &status).ok());
  EXPECT_EQ(status.limits().max_message_bytes(), HostOptions().max_message_bytes);
  EXPECT_GT(status.limits().max_unfinished(), 0u);
  EXPECT_GT(status.limits().max_unfinished_bytes(), 0u);
  EXPECT_GT(status.limits().max_handles(), 0u);
}

// Frames of HTTP/2, as far as they are needed here.
constexpr char kPing = 6, kGoAway = 7, kAcknowledged = 1;

std::string Frame(char type, const std::string& payload) {
  return std::string({0, 0, static_cast<char>(payload.size()), type, 0, 0, 0, 0, 0}) + payload;
}

TEST_F(HostTest, AClientMayPingAsMuchAsItLikes) {
  Start();
  const UniqueFd client = *ConnectUnix(Address{.path = directory_ + "/s"});
  const auto say = [&](const std::string& bytes) {
    ASSERT_EQ(send(client.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  };
  say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Frame(/*settings*/ 4, ""));
  // One at a time: what the server thinks of one is known before the next is answered.
  for (int i = 0; i < 20; ++i) {
    say(Frame(kPing, "12345678"));
    unsigned char head[9] = {};
    while (head[3] != kPing || head[4] != kAcknowledged) {
      ASSERT_EQ(recv(client.get(), head, sizeof(head), MSG_WAITALL), 9) << i;
      std::string payload((head[0] << 16) + (head[1] << 8) + head[2], '\0');
      if (!payload.empty()) {
        ASSERT_EQ(recv(client.get(), payload.data(), payload.size(), MSG_WAITALL),
                  static_cast<ssize_t>(payload.size()));
      }
      ASSERT_NE(head[3], kGoAway) << i << payload;
    }
  }
}

TEST_F(HostTest, WhatAPlainCallLeavesEndsWithItsConnection) {
  Start();
  {
    grpc::ClientContext context;
    test::v1::RecordReply reply;
    ASSERT_TRUE(test::v1::TestOperations::NewStub(Connect())->Record(&context, {}, &reply).ok());
  }
  operations_->AwaitEndedSessions(1);
}

TEST_F(HostTest, IsIdleOnceTheConnectionOfPlainCallsHasEnded) {
  absl::Notification idle;
  Start({.on_idle = [&] {
    if (!idle.HasBeenNotified()) idle.Notify();
  }});
  {
    grpc::ClientContext context;
    test::v1::EchoReply reply;
    ASSERT_TRUE(test::v1::TestOperations::NewStub(Connect())->Echo(&context, {}, &reply).ok());
  }
  idle.WaitForNotification();
  host_.reset();
}

TEST_F(HostTest, AHostThatGoesEndsACallThatTheThreadIsStuckIn) {
  for (const bool by_name : {false, true}) {
    Start();
    std::thread caller([&] {
      grpc::ClientContext context;
      if (by_name) {
        v1::DispatchRequest request;
        request.set_operation(kHold);
        v1::DispatchResponse response;
        const auto stub = v1::Dispatcher::NewStub(Connect());
        EXPECT_FALSE(stub->Dispatch(&context, request, &response).ok());
      } else {
        test::v1::HoldReply reply;
        const auto stub = test::v1::TestOperations::NewStub(Connect());
        EXPECT_FALSE(stub->Hold(&context, {}, &reply).ok());
      }
    });
    operations_->AwaitHeld();
    host_.reset();
    caller.join();
    EXPECT_EQ(runtime_->GetSnapshot().ledger.running, 1u);
    EXPECT_EQ(runtime_->GetSnapshot().ledger.given_up, 1u);
    operations_->LetGo();
    runtime_.reset();
  }
}

TEST_F(HostTest, ADrainRunsWhatWasAdmittedAndRefusesTheRest) {
  Start();
  const auto stub = test::v1::TestOperations::NewStub(Connect());
  std::thread holder([&] {
    grpc::ClientContext context;
    test::v1::HoldReply reply;
    EXPECT_TRUE(stub->Hold(&context, {}, &reply).ok());
  });
  operations_->AwaitHeld();
  std::thread queued([&] {
    grpc::ClientContext context;
    test::v1::RecordReply reply;
    EXPECT_TRUE(stub->Record(&context, {}, &reply).ok());
  });
  Await([](const auto& snapshot) { return snapshot.ledger.queued == 1; });
  std::thread late([&] {
    Await([](const auto& snapshot) { return snapshot.draining; });
    grpc::ClientContext context;
    test::v1::RecordReply reply;
    const grpc::Status status = stub->Record(&context, {}, &reply);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_DRAINING);
    operations_->LetGo();
  });
  const Runtime::DrainResult result = host_->Drain(absl::Seconds(60));
  EXPECT_TRUE(result.drained);
  EXPECT_EQ(result.ledger.succeeded, 2u);
  holder.join();
  queued.join();
  late.join();
}

}  // namespace
}  // namespace runloop::daemon

#include <gmock/gmock.h>

#include "absl/synchronization/notification.h"
#include "runloop/daemon/host.h"
#include "runloop/daemon/testing/host_fixture.h"
#include "runloop/runtime/hosted_addresses.h"
#include "runloop/v1/control.grpc.pb.h"

namespace runloop::daemon {
namespace {

// What runloop.v1.Control/Drain does to a host.
class HostDrainTest : public HostFixture {
 protected:
  static LogSink Quiet() {
    return [](LogSeverity, std::string_view) {};
  }
};

// Asks until the host serves.
grpc::Status AskForDrain(const std::shared_ptr<grpc::Channel>& channel, absl::Duration timeout,
                         v1::DrainResponse& response) {
  const auto stub = v1::Control::NewStub(channel);
  v1::DrainRequest request;
  request.mutable_timeout()->set_seconds(absl::ToInt64Seconds(timeout));
  for (;;) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    const grpc::Status status = stub->Drain(&context, request, &response);
    if (status.error_code() != grpc::StatusCode::FAILED_PRECONDITION) return status;
    std::this_thread::yield();
  }
}

TEST_F(HostDrainTest, DrainsAHostOnTheRuntimesOwnThread) {
  OperationRegistry registry;
  const auto operations = TestOperations::Register(registry);
  const auto runtime = *Runtime::Create({.operations = std::move(registry), .log = Quiet()});
  const auto host = *Host::Start(*runtime, {.listen = directory_ + "/s", .log = Quiet()});
  std::thread worker([this] {
    v1::DrainResponse response;
    EXPECT_TRUE(AskForDrain(Connect(), absl::ZeroDuration(), response).ok());
    EXPECT_GT(response.left().seconds(), 0);
    EXPECT_LE(response.left().seconds(), 10);
  });
  EXPECT_EQ(host->ServeUntilSignal(), 0);
  worker.join();
}

TEST_F(HostDrainTest, ActsOnACallBeforeItLogsIt) {
  absl::Notification closes;
  Start({.log = [&](LogSeverity, std::string_view line) {
    if (line.substr(0, 8) == "process ") closes.WaitForNotification();
  }});
  std::thread worker([&] {
    v1::DrainResponse response;
    (void)AskForDrain(Connect(), absl::ZeroDuration(), response);
  });
  std::thread watcher([&] {
    Await([](const auto& snapshot) { return snapshot.draining; });
    // The owner closes while the sink still blocks.
    while (FindHostedAddress("unix:" + directory_ + "/s").has_value()) std::this_thread::yield();
    closes.Notify();
  });
  EXPECT_EQ(host_->ServeUntilSignal(), 0);
  worker.join();
  watcher.join();
}

TEST_F(HostDrainTest, ADrainThatHasBegunGoesOnWithItsOwnDeadline) {
  Start();
  std::thread holder([&] {
    grpc::ClientContext context;
    test::v1::HoldReply reply;
    EXPECT_TRUE(test::v1::TestOperations::NewStub(Connect())->Hold(&context, {}, &reply).ok());
  });
  operations_->AwaitHeld();
  std::thread worker([&] {
    const auto channel = Connect();
    v1::DrainResponse first, second;
    // Nobody may ask for more than a day.
    EXPECT_TRUE(AskForDrain(channel, absl::Hours(1000), first).ok());
    EXPECT_LE(first.left().seconds(), 24 * 3600);
    EXPECT_GT(first.left().seconds(), 23 * 3600);
    EXPECT_TRUE(runtime_->GetSnapshot().draining);
    EXPECT_TRUE(AskForDrain(channel, absl::Seconds(1), second).ok());
    EXPECT_GT(second.left().seconds(), 23 * 3600);
    EXPECT_LT(absl::Seconds(second.left().seconds()) + absl::Nanoseconds(second.left().nanos()),
              absl::Seconds(first.left().seconds()) + absl::Nanoseconds(first.left().nanos()));
    operations_->LetGo();
  });
  EXPECT_EQ(host_->ServeUntilSignal(), 0);
  worker.join();
  holder.join();
}

TEST_F(HostDrainTest, ACallWithoutATimeoutHasTheHosts) {
  Start({.drain_timeout = absl::Hours(2)});
  std::thread worker([&] {
    v1::DrainResponse response;
    EXPECT_TRUE(AskForDrain(Connect(), absl::Seconds(-5), response).ok());
    EXPECT_GT(response.left().seconds(), 3600);
  });
  EXPECT_EQ(host_->ServeUntilSignal(), 0);
  worker.join();
}

TEST_F(HostDrainTest, TheTimeoutOfACallCutsTheDrainOff) {
  Start({.drain_timeout = absl::Hours(2)});
  const auto stub = test::v1::TestOperations::NewStub(Connect());
  std::thread deferred([&] {
    grpc::ClientContext context;
    test::v1::DeferReply reply;
    EXPECT_FALSE(stub->Defer(&context, {}, &reply).ok());
  });
  Await([](const auto& snapshot) { return snapshot.ledger.deferred == 1; });
  std::thread worker([&] {
    v1::DrainResponse response;
    EXPECT_TRUE(AskForDrain(Connect(), absl::Seconds(1), response).ok());
  });
  EXPECT_EQ(host_->ServeUntilSignal(), 3);
  worker.join();
  deferred.join();
}

TEST_F(HostDrainTest, ACallCannotDrainAHostThatServesInAWayOfItsOwn) {
  Start();
  grpc::ClientContext context;
  v1::DrainResponse response;
  const grpc::Status status = v1::Control::NewStub(Connect())->Drain(&context, {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), testing::HasSubstr("a way of its own"));
  EXPECT_FALSE(runtime_->GetSnapshot().draining);
}

TEST_F(HostDrainTest, ADrainWithATimeoutThatIsNoneIsRefused) {
  Start();
  grpc::ClientContext context;
  v1::DrainRequest request;
  request.mutable_timeout()->set_seconds(1);
  request.mutable_timeout()->set_nanos(-1);
  v1::DrainResponse response;
  const grpc::Status status = v1::Control::NewStub(Connect())->Drain(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_INVALID_REQUEST);
}

}  // namespace
}  // namespace runloop::daemon

// The guide's chapters on hosts: serving, draining, and connections that are lost.

#include <csignal>
#include <thread>
#include <vector>

#include "runloop/tests/guide/fixture.h"
#include "runloop/tests/testing/cut_connections.h"

namespace acme {
namespace {

// [host]
int Serve(runloop::OperationRegistry operations, const std::string& socket) {
  auto runtime = runloop::Runtime::Create({.operations = std::move(operations)});
  if (!runtime.ok()) return 1;
  auto host = runloop::Host::Start(**runtime, {.listen = socket});
  if (!host.ok()) return 1;
  return (*host)->ServeUntilSignal();  // runs the loop on this thread; then drains
}
// [/host]

TEST_F(GuideTest, AProgramIsAHost) {
  std::thread worker([this] {
    const absl::StatusOr<runloop::RuntimeContext> context =
        runloop::Connect({.address = directory_ + "/s", .connect_timeout = absl::Seconds(60)});
    EXPECT_TRUE(context.ok()) << context.status();
    if (context.ok()) {
      EXPECT_TRUE(
          context->DispatchBlocking<DescribeReply>("acme.v1.Camera/Describe", Front()).ok());
    }
    kill(getpid(), SIGTERM);
  });
  runloop::OperationRegistry operations;
  ASSERT_TRUE(RegisterCamera(operations, sdk_).ok());
  EXPECT_EQ(Serve(std::move(operations), directory_ + "/s"), 0);
  worker.join();
}

TEST_F(GuideTest, ADrainRunsWhatWasAdmitted) {
  Start();
  const runloop::RuntimeContext context = Connect();
  const runloop::Invocation asked = context.DispatchAsync<v1::AskPermissionReply>(
      "acme.v1.Camera/AskPermission", v1::AskPermissionRequest());
  std::thread user([this] { sdk_->Answer(true); });
  while (runtime_->GetSnapshot().ledger.admitted == 0) std::this_thread::yield();
  const std::unique_ptr<runloop::Host>& host = host_;
  // [drain]
  runloop::Runtime::DrainResult end = host->Drain(absl::Seconds(30));
  bool all_ran = end.drained;
  uint64_t cut_off = end.ledger.abandoned;
  // [/drain]
  user.join();
  EXPECT_TRUE(all_ran);
  EXPECT_EQ(cut_off, 0u);
  EXPECT_TRUE(asked.AwaitReply<v1::AskPermissionReply>().ok());
}

TEST_F(GuideTest, ASessionIsResumedAndTheLossOfOneIsTold) {
  Start();
  const std::string socket = address();
  std::vector<std::string> to_look_after;
  absl::Notification told;
  // [lost]
  runloop::ConnectOptions options;
  options.address = socket;
  options.on_session_lost = [&](const runloop::SessionLost& lost) {
    for (const runloop::LostInvocation& unknown : lost.unknown) {
      to_look_after.push_back(unknown.operation);  // it may or may not have run
    }
    told.Notify();
  };
  absl::StatusOr<runloop::RuntimeContext> context = runloop::Connect(options);
  // [/lost]
  ASSERT_TRUE(context.ok()) << context.status();
  const runloop::Invocation asked = context->DispatchAsync<v1::AskPermissionReply>(
      "acme.v1.Camera/AskPermission", v1::AskPermissionRequest());
  while (runtime_->GetSnapshot().ledger.deferred == 0) std::this_thread::yield();
  // The connection breaks, and the daemon lives: the session goes on.
  const std::string bound = host_->addresses()[0].substr(std::string("unix:").size());
  ASSERT_GT(runloop::CutConnections(bound), 0);
  sdk_->Answer(true);
  EXPECT_TRUE(asked.AwaitReply<v1::AskPermissionReply>().ok());
  EXPECT_FALSE(told.HasBeenNotified());
  // The daemon ends while it has work of the session's.
  const runloop::Invocation open = context->DispatchAsync<v1::AskPermissionReply>(
      "acme.v1.Camera/AskPermission", v1::AskPermissionRequest());
  while (runtime_->GetSnapshot().ledger.deferred == 0) std::this_thread::yield();
  host_.reset();
  told.WaitForNotification();
  EXPECT_EQ(runloop::ReasonOf(open.Await()), runloop::v1::ERROR_REASON_SESSION_LOST);
  EXPECT_THAT(to_look_after, testing::ElementsAre("acme.v1.Camera/AskPermission"));
}

}  // namespace
}  // namespace acme

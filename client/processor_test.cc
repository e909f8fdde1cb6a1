#include "runloop/client/processor.h"

#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "google/protobuf/wrappers.pb.h"
#include "gtest/gtest.h"
#include "runloop/client/scripted_daemon.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/error.h"

namespace runloop {
namespace {

using google::protobuf::StringValue;
using internal::ScriptedDaemon;
using testing::ElementsAre;

// Notes what is called and does what the test says.
class NotingProcessor final : public Processor {
 public:
  absl::Status Setup(const RuntimeContext& context) override {
    context_ = context;
    return absl::OkStatus();
  }
  absl::StatusOr<Next> Process() override {
    steps.emplace_back("process");
    return process(*context_);
  }
  absl::Status OnSessionLost(const SessionLost& lost) override {
    steps.emplace_back("lost");
    for (const LostInvocation& invocation : lost.unknown) steps.push_back(invocation.operation);
    return goes_on ? absl::OkStatus() : Processor::OnSessionLost(lost);
  }
  absl::Status Teardown() override {
    steps.emplace_back("teardown");
    context_.reset();
    return absl::OkStatus();
  }

  std::function<absl::StatusOr<Next>(const RuntimeContext&)> process;
  bool goes_on = false;
  std::vector<std::string> steps;

 private:
  std::optional<RuntimeContext> context_;
};

class ProcessorTest : public testing::Test {
 protected:
  ProcessorTest() { daemon_.Start(); }

  // Sends an invocation and loses the session with it; returns when that is noted.
  void LoseSession(const RuntimeContext& context) {
    const Invocation invocation = context.DispatchAsync("a.B/C", StringValue());
    daemon_.Next();
    daemon_.Stop();
    EXPECT_EQ(ReasonOf(invocation.Await()), v1::ERROR_REASON_SESSION_LOST);
    lost_.WaitForNotification();
  }
  static grpc::Status Draining() {
    return ToGrpcStatus(
        MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING, "draining"));
  }
  int Run() {
    return RunProcessor(
        processor_, {.address = daemon_.address(), .on_session_lost = [this](const SessionLost&) {
                       if (!lost_.HasBeenNotified()) lost_.Notify();
                     }});
  }

  ScriptedDaemon daemon_;
  absl::Notification lost_;
  NotingProcessor processor_;
};

TEST_F(ProcessorTest, ALostSessionEndsItWithTheListBetweenTwoCallsOfProcess) {
  processor_.process = [this](const RuntimeContext& context) {
    LoseSession(context);
    return Processor::Next::kContinue;
  };
  EXPECT_EQ(Run(), kProcessorNotConnected);
  EXPECT_THAT(processor_.steps, ElementsAre("process", "lost", "a.B/C", "teardown"));
}

TEST_F(ProcessorTest, ItGoesOnInTheNextSessionIfItSaysSo) {
  processor_.goes_on = true;
  processor_.process = [this](const RuntimeContext& context) {
    if (processor_.steps.size() == 1) {
      LoseSession(context);
      daemon_.Start();
      return Processor::Next::kContinue;
    }
    daemon_.AwaitSessions(2);
    daemon_.Leave();
    return Processor::Next::kDone;
  };
  EXPECT_EQ(Run(), kProcessorDone);
  EXPECT_THAT(std::vector<std::string>(processor_.steps.begin(), processor_.steps.begin() + 4),
              ElementsAre("process", "lost", "a.B/C", "process"));
}

TEST_F(ProcessorTest, TheErrorOfProcessThatALostSessionBroughtComesWithTheList) {
  processor_.process = [this](const RuntimeContext& context) -> absl::StatusOr<Processor::Next> {
    const Invocation invocation = context.DispatchAsync("a.B/C", StringValue());
    daemon_.Next();
    daemon_.Stop();
    return invocation.Await();
  };
  EXPECT_EQ(Run(), kProcessorNotConnected);
  EXPECT_THAT(processor_.steps, ElementsAre("process", "lost", "a.B/C", "teardown"));
}

// The client's thread is between the outcomes of a loss and its report for as long as Process takes
// to return.
TEST_F(ProcessorTest, TheErrorOfProcessThatADrainBroughtComesWithTheLoss) {
  absl::Notification returns;
  processor_.process = [&](const RuntimeContext& context) -> absl::StatusOr<Processor::Next> {
    const Invocation invocation = context.DispatchAsync("a.B/C", StringValue());
    daemon_.Next();
    invocation.Watch([&returns](const absl::Status&) { returns.WaitForNotification(); });
    daemon_.End(Draining());
    const absl::Status status = invocation.Await();
    EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_DRAINING) << status;
    returns.Notify();
    return status;
  };
  EXPECT_EQ(Run(), kProcessorNotConnected);
  EXPECT_THAT(processor_.steps, ElementsAre("process", "lost", "teardown"));
}

TEST_F(ProcessorTest, SoItDoesIfProcessMadeAnErrorOfItsOwnOfIt) {
  absl::Notification returns;
  processor_.process = [&](const RuntimeContext& context) -> absl::StatusOr<Processor::Next> {
    const Invocation invocation = context.DispatchAsync("a.B/C", StringValue());
    daemon_.Next();
    invocation.Watch([&returns](const absl::Status&) { returns.WaitForNotification(); });
    daemon_.Stop();
    EXPECT_FALSE(invocation.Await().ok());
    returns.Notify();
    return absl::InternalError("the frame was not written");
  };
  EXPECT_EQ(Run(), kProcessorFailed);
  EXPECT_THAT(processor_.steps, ElementsAre("process", "lost", "a.B/C", "teardown"));
}

TEST_F(ProcessorTest, ADispatchThatADrainRefusesIsNoLossAndNothingWaitsForOne) {
  std::thread daemon;
  processor_.process = [&](const RuntimeContext& context) -> absl::StatusOr<Processor::Next> {
    const Invocation taken = context.DispatchAsync("a.B/C", StringValue());
    daemon_.Next();
    v1::SessionResponse draining;
    draining.mutable_draining();
    draining.mutable_succeeded()->set_watermark(1);
    daemon_.Send(draining);
    EXPECT_TRUE(taken.Await().ok());
    // The stream ends only once its client has said that it has no more.
    daemon = std::thread([this] {
      EXPECT_EQ(daemon_.Next(), std::nullopt);
      daemon_.End(grpc::Status::OK);
    });
    return context.DispatchAsync("a.B/C", StringValue()).Await();
  };
  EXPECT_EQ(Run(), kProcessorNotConnected);
  daemon.join();
  EXPECT_THAT(processor_.steps, ElementsAre("process", "teardown"));
  EXPECT_FALSE(lost_.HasBeenNotified());
}

}  // namespace
}  // namespace runloop

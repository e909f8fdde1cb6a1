// Sessions whose connection is cut: what was dispatched runs once, and no outcome is lost.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "runloop/client/connect.h"
#include "runloop/daemon/host.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/cut_connections.h"
#include "runloop/tests/testing/test_operations.h"
#include "runloop/v1/handles.pb.h"

namespace runloop {
namespace {

using test::v1::DeferReply;
using test::v1::DeferRequest;
using test::v1::EchoReply;
using test::v1::EchoRequest;
using test::v1::HoldReply;
using test::v1::HoldRequest;
using test::v1::MakeReply;
using test::v1::MakeRequest;
using test::v1::RecordReply;
using test::v1::RecordRequest;
using test::v1::UseReply;
using test::v1::UseRequest;
using testing::SizeIs;

enum class Path { kStream, kRing };

EchoRequest Echo(std::string text) {
  EchoRequest request;
  request.set_text(std::move(text));
  return request;
}

RecordRequest Record(uint32_t producer, uint64_t index) {
  RecordRequest request;
  request.set_producer(producer);
  request.set_index(index);
  return request;
}

class ResumeTest : public testing::TestWithParam<Path> {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/runloop-resume-XXXXXX";
    ASSERT_NE(mkdtemp(directory_.data()), nullptr);
  }
  void TearDown() override {
    if (operations_) operations_->LetGo();
    host_.reset();
    runtime_.reset();
    std::filesystem::remove_all(directory_);
  }

  void Start(HostOptions options = {}) {
    OperationRegistry registry;
    operations_ = TestOperations::Register(registry);
    runtime_ = *Runtime::Create({.operations = std::move(registry),
                                 .thread = RuntimeThread::kSpawn,
                                 .log = [](LogSeverity, std::string_view) {}});
    options.listen = socket();
    options.log = [](LogSeverity, std::string_view) {};
    absl::StatusOr<std::unique_ptr<Host>> host = Host::Start(*runtime_, std::move(options));
    ASSERT_TRUE(host.ok()) << host.status();
    host_ = *std::move(host);
    // By its own name this process reaches it in process; by another it goes through the socket.
    std::error_code exists;
    std::filesystem::create_symlink(socket(), directory_ + "/other-name", exists);
  }
  std::string socket() const { return directory_ + "/s"; }

  RuntimeContext Context(bool resume = true) {
    return *Connect({.address = directory_ + "/other-name",
                     .client_name = "resume",
                     .ring = GetParam() == Path::kRing,
                     .resume = resume,
                     .on_session_lost = [this](const SessionLost& lost) {
                       unknown_ += lost.unknown.size();
                       ++lost_;
                     }});
  }
  std::string bound() const { return host_->addresses()[0].substr(std::string("unix:").size()); }
  void Cut(int only = -1) { EXPECT_GT(CutConnections(bound(), only), 0); }

  auto Sessions() { return runtime_->GetSnapshot().sessions; }
  void AwaitTransport(std::string_view name) {
    while (Sessions().empty() || Sessions()[0]->transport().name != name) {
      std::this_thread::yield();
    }
  }

  std::shared_ptr<TestOperations> operations_;
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Host> host_;
  std::string directory_;
  std::atomic<size_t> lost_{0}, unknown_{0};
};

INSTANTIATE_TEST_SUITE_P(, ResumeTest, testing::Values(Path::kStream, Path::kRing),
                         [](const testing::TestParamInfo<Path>& path) {
                           return path.param == Path::kRing ? "Ring" : "Stream";
                         });

TEST_P(ResumeTest, WhatRunsWhileTheConnectionIsCutGivesItsReply) {
  Start();
  const RuntimeContext context = Context();
  const Invocation held = context.DispatchAsync<HoldReply>(kHold, HoldRequest());
  operations_->AwaitHeld();
  const Invocation behind = context.DispatchAsync<EchoReply>(kEcho, Echo("behind"));
  Cut();
  operations_->LetGo();
  EXPECT_TRUE(held.AwaitReply<HoldReply>().ok());
  const absl::StatusOr<EchoReply> reply = behind.AwaitReply<EchoReply>();
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->text(), "behind");
  EXPECT_EQ(lost_, 0u);
  EXPECT_THAT(Sessions(), SizeIs(1));
  // And the next ones go their way.
  EXPECT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("after")).ok());
}

TEST_P(ResumeTest, WhatIsDispatchedWhileItIsCutComesAfterWhatWasBefore) {
  Start();
  const RuntimeContext context = Context();
  context.DispatchAsync(kHold, HoldRequest());
  operations_->AwaitHeld();
  for (uint64_t i = 0; i < 100; ++i) context.DispatchAsync(kRecord, Record(0, i));
  Cut();
  for (uint64_t i = 100; i < 200; ++i) context.DispatchAsync(kRecord, Record(0, i));
  operations_->LetGo();
  EXPECT_TRUE(context.DispatchAsync(kRecord, Record(0, 200)).Await().ok());
  const std::vector<TestOperations::Item> record = operations_->record();
  ASSERT_THAT(record, SizeIs(201));
  for (uint64_t i = 0; i < record.size(); ++i) EXPECT_EQ(record[i].second, i);
}

TEST_P(ResumeTest, ObjectsAndTheSessionsIdLiveOn) {
  Start();
  const RuntimeContext context = Context();
  const std::string id = context.session_id();
  MakeRequest make;
  make.set_name("kept");
  const absl::StatusOr<MakeReply> made = context.DispatchBlocking<MakeReply>(kMake, make);
  ASSERT_TRUE(made.ok()) << made.status();
  Cut();
  UseRequest use;
  use.set_handle(made->handle());
  EXPECT_TRUE(context.DispatchBlocking<UseReply>(kUse, use).ok());
  EXPECT_EQ(context.session_id(), id);
  EXPECT_THAT(operations_->destroyed(), SizeIs(0));
}

TEST_P(ResumeTest, ACancelThatWasOnItsWayStillCancels) {
  Start();
  const RuntimeContext context = Context();
  context.DispatchAsync(kHold, HoldRequest());
  operations_->AwaitHeld();
  const Invocation before = context.DispatchAsync(kRecord, Record(0, 1));
  const Invocation during = context.DispatchAsync(kRecord, Record(0, 2));
  before.Cancel();
  Cut();
  during.Cancel();
  EXPECT_EQ(before.Await().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(during.Await().code(), absl::StatusCode::kCancelled);
  operations_->LetGo();
  EXPECT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("after")).ok());
  EXPECT_THAT(operations_->record(), SizeIs(0));
}

TEST_P(ResumeTest, OutcomesOfAllKindsThatCameMeanwhileAreTold) {
  Start();
  const RuntimeContext context = Context();
  context.DispatchAsync(kHold, HoldRequest());
  operations_->AwaitHeld();
  const Invocation deferred = context.DispatchAsync<DeferReply>(kDefer, DeferRequest());
  test::v1::FailRequest failing;
  failing.set_code(static_cast<int32_t>(absl::StatusCode::kDataLoss));
  const Invocation fails = context.DispatchAsync(kFail, failing);
  const Invocation unknown = context.DispatchAsync("no.Such/Operation", Echo(""));
  const Invocation late =
      context.DispatchAsync(kRecord, Record(0, 1), {.timeout = absl::Milliseconds(1)});
  EXPECT_EQ(unknown.Await().code(), absl::StatusCode::kUnimplemented);
  Cut();
  EXPECT_EQ(late.Await().code(), absl::StatusCode::kDeadlineExceeded);
  operations_->LetGo();
  operations_->TakeDeferred().Finish(DeferReply());
  EXPECT_TRUE(deferred.AwaitReply<DeferReply>().ok());
  EXPECT_EQ(fails.Await().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(lost_, 0u);
}

TEST_P(ResumeTest, WhoDoesNotAskForItLosesTheSessionWithItsConnection) {
  Start();
  const RuntimeContext context = Context(/*resume=*/false);
  const Invocation held = context.DispatchAsync<HoldReply>(kHold, HoldRequest());
  operations_->AwaitHeld();
  Cut();
  EXPECT_EQ(ReasonOf(held.Await()), v1::ERROR_REASON_SESSION_LOST);
  operations_->LetGo();
}

TEST_P(ResumeTest, ADaemonThatKeepsNoSessionsLosesIt) {
  Start({.resume_grace = absl::ZeroDuration()});
  const RuntimeContext context = Context();
  const Invocation held = context.DispatchAsync<HoldReply>(kHold, HoldRequest());
  operations_->AwaitHeld();
  Cut();
  EXPECT_EQ(ReasonOf(held.Await()), v1::ERROR_REASON_SESSION_LOST);
  operations_->LetGo();
}

TEST_P(ResumeTest, AnotherDaemonAtTheSameSocketDoesNotKnowTheSession) {
  Start();
  const RuntimeContext context = Context();
  const Invocation held = context.DispatchAsync<HoldReply>(kHold, HoldRequest());
  operations_->AwaitHeld();
  operations_->LetGo();
  host_.reset();
  runtime_.reset();
  Start();
  EXPECT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("to the new one")).ok());
  EXPECT_TRUE(held.done());
}

// The connection of the stream alone, and that of a ring or of buffers, in turn.
TEST_P(ResumeTest, OneOfTheConnectionsIsEnough) {
  Start();
  const RuntimeContext context = Context();
  for (int i = 0; i < 20; ++i) {
    const Invocation first = context.DispatchAsync<EchoReply>(kEcho, Echo("first"));
    Cut(i);
    const absl::StatusOr<EchoReply> reply =
        context.DispatchBlocking<EchoReply>(kEcho, Echo("second"));
    EXPECT_TRUE(reply.ok()) << reply.status();
    EXPECT_TRUE(first.AwaitReply<EchoReply>().ok());
  }
  EXPECT_EQ(lost_, 0u);
}

TEST_P(ResumeTest, NothingIsLostOrRunTwiceHoweverOftenItIsCut) {
  Start();
  constexpr uint32_t kThreads = 3;
  constexpr uint64_t kEach = 4000;
  const RuntimeContext context = Context();
  std::atomic<uint64_t> succeeded{0};
  std::atomic<bool> done{false};
  std::thread cutter([&] {
    std::mt19937 random(7);
    while (!done) {
      CutConnections(bound(), random() % 3 == 0 ? -1 : static_cast<int>(random() % 4));
      // Some of the work comes in between.
      const uint64_t until = succeeded + random() % 400;
      while (!done && succeeded < until) std::this_thread::yield();
    }
  });
  std::vector<std::thread> workers;
  for (uint32_t producer = 0; producer < kThreads; ++producer) {
    workers.emplace_back([&, producer] {
      std::mt19937 random(producer);
      std::vector<Invocation> unfinished;
      for (uint64_t i = 0; i < kEach; ++i) {
        const absl::StatusOr<EchoReply> reply =
            random() % 50 == 0 ? context.DispatchBlocking<EchoReply>(kEcho, Echo("reply"))
                               : EchoReply();
        EXPECT_TRUE(reply.ok()) << reply.status();
        unfinished.push_back(
            random() % 2 == 0 ? context.DispatchAsync(kRecord, Record(producer, i))
                              : context.DispatchAsync<RecordReply>(kRecord, Record(producer, i)));
        if (unfinished.size() < 100 && i + 1 < kEach) continue;
        for (const Invocation& invocation : unfinished) {
          const absl::Status status = invocation.Await();
          EXPECT_TRUE(status.ok()) << status;
          ++succeeded;
        }
        unfinished.clear();
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  done = true;
  cutter.join();
  EXPECT_EQ(succeeded, kThreads * kEach);
  EXPECT_EQ(lost_, 0u);
  std::vector<uint64_t> next(kThreads, 0);
  for (const auto& [producer, index] : operations_->record()) {
    ASSERT_EQ(index, next[producer]) << "of producer " << producer;
    ++next[producer];
  }
  for (uint32_t producer = 0; producer < kThreads; ++producer) EXPECT_EQ(next[producer], kEach);
}

}  // namespace
}  // namespace runloop

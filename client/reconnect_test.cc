#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runloop/client/connect_fixture.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/runtime.h"

namespace runloop::internal {
namespace {

using google::protobuf::StringValue;
using testing::HasSubstr;

// Collects what on_session_lost is told. Thread-safe.
class Losses {
 public:
  void Add(const SessionLost& lost) {
    absl::MutexLock lock(&mutex_);
    losses_.push_back(lost);
  }
  SessionLost Next() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &Losses::any));
    SessionLost lost = losses_.front();
    losses_.erase(losses_.begin());
    return lost;
  }
  size_t size() const {
    absl::MutexLock lock(&mutex_);
    return losses_.size();
  }

 private:
  bool any() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !losses_.empty(); }

  mutable absl::Mutex mutex_;
  std::vector<SessionLost> losses_ ABSL_GUARDED_BY(mutex_);
};

class ReconnectTest : public ConnectTest {
 protected:
  ConnectOptions Noting() {
    ConnectOptions options = Options();
    options.on_session_lost = [this](const SessionLost& lost) { losses_.Add(lost); };
    return options;
  }
  // A thread of this process.
  static bool IsAsleep(pid_t thread) {
    std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/stat");
    std::string stat;
    std::getline(file, stat);
    return stat.find(") S ") != std::string::npos;
  }
  std::string socket() const { return daemon_.address().substr(sizeof("unix:") - 1); }

  Losses losses_;
};

TEST_F(ReconnectTest, AnIdleClientOpensANewSessionOnceTheDaemonIsBack) {
  const RuntimeContext context = Context(Noting());
  for (int session = 2; session <= 4; ++session) {
    daemon_.Stop();
    losses_.Next();
    daemon_.Start();
    daemon_.AwaitSessions(session);
    EXPECT_EQ(daemon_.hello().resume_token(), "");
  }
  EndSession();
}

TEST_F(ReconnectTest, AlsoWhenTheSocketsDirectoryIsMadeAgain) {
  const RuntimeContext context = Context(Noting());
  daemon_.Stop();
  losses_.Next();
  const std::filesystem::path directory = std::filesystem::path(socket()).parent_path();
  std::filesystem::remove_all(directory);
  // It looks for the socket at least once while the directory is missing.
  EXPECT_EQ(
      ReasonOf(
          context.DispatchAsync("a.B/C", Text(""), {.timeout = absl::Milliseconds(50)}).Await()),
      v1::ERROR_REASON_EXPIRED);
  std::filesystem::create_directory(directory);
  daemon_.Start();
  daemon_.AwaitSessions(2);
  EndSession();
}

TEST_F(ReconnectTest, WhatIsDispatchedMeanwhileIsSentInItsOrder) {
  const RuntimeContext context = Context(Noting());
  daemon_.Stop();
  losses_.Next();
  EXPECT_EQ(daemon_.Next(), std::nullopt);
  std::vector<Invocation> invocations;
  for (int i = 0; i < 100; ++i) {
    invocations.push_back(context.DispatchAsync("a.B/C", Text(std::to_string(i))));
  }
  invocations[50].Cancel();
  EXPECT_EQ(ReasonOf(invocations[50].Await()), v1::ERROR_REASON_CANCELLED);
  daemon_.Start();
  std::vector<std::string> got;
  uint64_t last_id = 0;
  while (got.size() < 99) {
    const std::optional<v1::SessionRequest> request = daemon_.Next();
    ASSERT_TRUE(request.has_value());
    for (const v1::Dispatch& dispatch : request->dispatches()) {
      StringValue value;
      ASSERT_TRUE(value.ParseFromString(dispatch.request()));
      got.push_back(value.value());
      last_id = dispatch.invocation_id();
    }
  }
  for (int i = 0; i < 99; ++i) EXPECT_EQ(got[i], std::to_string(i < 50 ? i : i + 1));
  daemon_.Send(Succeeded(last_id));
  EXPECT_TRUE(invocations.back().Await().ok());
  EndSession();
}

TEST_F(ReconnectTest, ABatchThatIsDispatchedMeanwhileIsSentAsOneWithoutWhatWasCancelled) {
  v1::SessionResponse welcome = Welcome(1 << 20, 100);
  welcome.mutable_welcome()->mutable_limits()->set_max_batch(1024);
  daemon_.SetWelcome(std::move(welcome));
  const RuntimeContext context = Context(Noting());
  daemon_.Stop();
  losses_.Next();
  EXPECT_EQ(daemon_.Next(), std::nullopt);
  const auto dispatch = [&](bool stops) {
    Batch batch;
    for (int i = 0; i < 4; ++i) batch.Add("a.B/C", Text(std::to_string(i)));
    return context.DispatchBatch(std::move(batch), {.stop_at_failure = stops});
  };
  const std::vector<Invocation> goes_on = dispatch(false), stops = dispatch(true);
  const std::vector<Invocation> none = dispatch(true);
  goes_on[1].Cancel();
  EXPECT_EQ(ReasonOf(goes_on[1].Await()), v1::ERROR_REASON_CANCELLED);
  stops[2].Cancel();
  EXPECT_EQ(ReasonOf(stops[2].Await()), v1::ERROR_REASON_CANCELLED);
  EXPECT_EQ(ReasonOf(stops[3].Await()), v1::ERROR_REASON_BATCH_STOPPED);
  none[0].Cancel();
  EXPECT_EQ(ReasonOf(none[3].Await()), v1::ERROR_REASON_BATCH_STOPPED);
  daemon_.Start();
  const std::optional<v1::SessionRequest> request = daemon_.Next();
  ASSERT_TRUE(request.has_value());
  ASSERT_EQ(request->dispatches_size(), 5);
  EXPECT_EQ(request->dispatches(0).batch_size(), 3u);
  EXPECT_FALSE(request->dispatches(0).stop_at_failure());
  EXPECT_EQ(request->dispatches(3).batch_size(), 2u);
  EXPECT_TRUE(request->dispatches(3).stop_at_failure());
  for (const int i : {1, 2, 4}) EXPECT_EQ(request->dispatches(i).batch_size(), 0u);
  daemon_.Send(Succeeded(request->dispatches(4).invocation_id()));
  EXPECT_TRUE(goes_on[3].Await().ok());
  EXPECT_TRUE(stops[1].Await().ok());
  EndSession();
}

// One that would take each of a batch alone.
TEST_F(ReconnectTest, ADaemonThatKnowsNoBatchesGetsNone) {
  const RuntimeContext context = Context(Noting());
  const auto reason = [&] {
    Batch batch;
    batch.Add("a.B/C", Text("1")).Add("a.B/C", Text("2"));
    return ReasonOf(context.DispatchBatch(std::move(batch))[1].Await());
  };
  EXPECT_EQ(reason(), v1::ERROR_REASON_VERSION_MISMATCH);
  daemon_.Stop();
  losses_.Next();
  EXPECT_EQ(daemon_.Next(), std::nullopt);
  std::thread back([&] { daemon_.Start(); });
  EXPECT_EQ(reason(), v1::ERROR_REASON_VERSION_MISMATCH);
  back.join();
  EndSession();
}

TEST_F(ReconnectTest, ARuntimeThatWaitsForWhatIsUnsentIsTold) {
  const RuntimeContext context = Context(Noting());
  daemon_.Stop();
  losses_.Next();
  EXPECT_EQ(daemon_.Next(), std::nullopt);
  auto runtime = *Runtime::Create({.thread = RuntimeThread::kSpawn});
  absl::Status status;
  ASSERT_TRUE(runtime->context()
                  .RunOnRuntimeThreadAsync([&] {
                    const Invocation invocation = context.DispatchAsync("a.B/C", Text(""));
                    status = invocation.Await(absl::Minutes(1));
                  })
                  .ok());
  while (runtime->GetSnapshot().waits_for.empty()) std::this_thread::yield();
  daemon_.Start();
  std::vector<v1::Waiting> waiting;
  while (waiting.empty()) {
    const std::optional<v1::SessionRequest> request = daemon_.Next();
    ASSERT_TRUE(request.has_value());
    waiting.assign(request->waiting().begin(), request->waiting().end());
  }
  ASSERT_EQ(waiting[0].chain_size(), 1);
  EXPECT_EQ(waiting[0].chain(0).runtime_id(), runtime->id());
  EXPECT_EQ(waiting[0].chain(0).wait(), 1u);
  daemon_.Send(Succeeded(waiting[0].invocation_id()));
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadBlocking([] {}).ok());
  EXPECT_TRUE(status.ok()) << status;
  EndSession();
}

TEST_F(ReconnectTest, EachDispatchWaitsForTheConnectTimeoutAndTheClientGoesOn) {
  ConnectOptions options = Noting();
  options.connect_timeout = absl::Milliseconds(100);
  const RuntimeContext context = Context(options);
  daemon_.Stop();
  losses_.Next();
  for (int i = 0; i < 3; ++i) {
    const absl::Status status = context.DispatchAsync("a.B/C", Text("")).Await();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_NOT_CONNECTED);
    EXPECT_THAT(std::string(status.message()), HasSubstr("start runloopd"));
  }
  daemon_.Start();
  daemon_.AwaitSessions(2);
  EndSession();
}

TEST_F(ReconnectTest, ADeadlineThatPassesMeanwhileIsExpired) {
  ConnectOptions options = Noting();
  options.connect_timeout = absl::InfiniteDuration();
  const RuntimeContext context = Context(options);
  daemon_.Stop();
  losses_.Next();
  const Invocation patient = context.DispatchAsync("a.B/C", Text(""));
  EXPECT_EQ(
      ReasonOf(
          context.DispatchAsync("a.B/C", Text(""), {.timeout = absl::Milliseconds(20)}).Await()),
      v1::ERROR_REASON_EXPIRED);
  EXPECT_EQ(ReasonOf(context
                         .DispatchBlocking<StringValue>("a.B/C", Text(""),
                                                        {.timeout = absl::Milliseconds(20)})
                         .status()),
            v1::ERROR_REASON_EXPIRED);
  EXPECT_FALSE(patient.done());
  patient.Cancel();
}

// Something that accepts connections, in the backlog, and says nothing.
TEST_F(ReconnectTest, ADaemonThatIsStuckHoldsUpNeitherDeadlinesNorTheEnd) {
  ConnectOptions options = Noting();
  options.connect_timeout = absl::Seconds(60);
  const absl::Time before = absl::Now();
  {
    const RuntimeContext context = Context(options);
    daemon_.Stop();
    losses_.Next();
    std::filesystem::remove(socket());
    const absl::StatusOr<UniqueFd> stuck = ListenUnix(*ParseAddress(daemon_.address()));
    ASSERT_TRUE(stuck.ok()) << stuck.status();
    EXPECT_EQ(
        ReasonOf(
            context.DispatchAsync("a.B/C", Text(""), {.timeout = absl::Milliseconds(300)}).Await()),
        v1::ERROR_REASON_EXPIRED);
  }
  EXPECT_LT(absl::Now() - before, absl::Seconds(30));
}

TEST_F(ReconnectTest, ConnectGivesUpOnADaemonThatIsStuck) {
  daemon_.Stop();
  std::filesystem::remove(socket());
  const absl::StatusOr<UniqueFd> stuck = ListenUnix(*ParseAddress(daemon_.address()));
  ASSERT_TRUE(stuck.ok()) << stuck.status();
  ConnectOptions options = Options();
  options.connect_timeout = absl::Milliseconds(50);
  const absl::Status status = Connect(options).status();
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_NOT_CONNECTED);
  EXPECT_THAT(std::string(status.message()), HasSubstr("does not answer"));
}

TEST_F(ReconnectTest, ConnectGivesUpOnTheRingOfADaemonThatIsStuckAndHasTheSession) {
  ConnectOptions options = Options();
  options.connect_timeout = absl::Seconds(2);
  options.internal.attach_timeout = absl::InfiniteDuration();
  daemon_.SetWelcome(std::nullopt);
  std::optional<RuntimeContext> context;
  std::thread connects([&] { context = Context(options); });
  daemon_.AwaitSessions(1);
  // What has the stream from now on answers no side channel.
  std::filesystem::remove(socket());
  const absl::StatusOr<UniqueFd> stuck = ListenUnix(*ParseAddress(daemon_.address()));
  ASSERT_TRUE(stuck.ok()) << stuck.status();
  v1::SessionResponse welcome = Welcome(0, 0);
  welcome.mutable_welcome()->set_transport(v1::TRANSPORT_RING);
  welcome.mutable_welcome()->set_session_id("s1");
  welcome.mutable_welcome()->set_side_channel_token("t");
  daemon_.Send(welcome);
  connects.join();
  const Invocation sent = context->DispatchAsync("a.B/C", Text(""));
  EXPECT_TRUE(daemon_.Next().has_value());
  daemon_.Send(Succeeded(1));
  EXPECT_EQ(sent.Await(), absl::OkStatus());
  EndSession();
}

TEST_F(ReconnectTest, TheLastContextDoesNotWaitForADaemonThatIsGone) {
  ConnectOptions options = Noting();
  options.connect_timeout = absl::InfiniteDuration();
  std::optional<RuntimeContext> context = Context(options);
  daemon_.Stop();
  losses_.Next();
  const absl::Time before = absl::Now();
  context.reset();
  EXPECT_LT(absl::Now() - before, absl::Seconds(4));  // it would be 5
}

TEST_F(ReconnectTest, ARefusalForGoodEndsWhatWaitsAndAChangeOfTheSocketMendsIt) {
  const RuntimeContext context = Context(Noting());
  daemon_.SetRefusal(ToGrpcStatus(MakeError(absl::StatusCode::kFailedPrecondition,
                                            v1::ERROR_REASON_VERSION_MISMATCH, "too old")));
  daemon_.End(grpc::Status::OK);
  losses_.Next();
  EXPECT_EQ(ReasonOf(context.DispatchAsync("a.B/C", Text("")).Await()),
            v1::ERROR_REASON_VERSION_MISMATCH);
  const int sessions = daemon_.sessions();
  daemon_.SetRefusal(std::nullopt);
  const absl::Time before = absl::Now();
  // Again and again: the first may come before it is watched for.
  std::thread touch([&] {
    while (daemon_.sessions() == sessions) {
      chmod(socket().c_str(), 0600);
      std::this_thread::yield();
    }
  });
  daemon_.AwaitSessions(sessions + 1);
  touch.join();
  EXPECT_LT(absl::Now() - before, absl::Seconds(4));  // by itself it is tried after 5
  EndSession();
}

TEST_F(ReconnectTest, ALostSessionIsToldWithWhatIsUnknownAfterTheirOutcomes) {
  v1::SessionResponse welcome = Welcome(0, 0);
  welcome.mutable_welcome()->set_session_id("session-1");
  daemon_.SetWelcome(welcome);
  std::optional<Invocation> first, third;
  bool had_outcomes = false;
  int sessions = 0;
  absl::Notification told;
  SessionLost got;
  ConnectOptions options = Options();
  options.on_session_lost = [&](const SessionLost& lost) {
    if (told.HasBeenNotified()) return;
    had_outcomes = first->done() && third->done();
    sessions = daemon_.sessions();
    got = lost;
    told.Notify();
  };
  const RuntimeContext context = Context(options);
  first = context.DispatchAsync("a.B/First", Text(""));
  const Invocation second = context.DispatchAsync("a.B/Second", Text(""));
  third = context.DispatchAsync<StringValue>("a.B/Third", Text(""));
  for (int got_dispatches = 0; got_dispatches < 3;) {
    got_dispatches += daemon_.Next()->dispatches_size();
  }
  daemon_.Send(ErrorTo(2, absl::InternalError("x")));
  EXPECT_EQ(second.Await().code(), absl::StatusCode::kInternal);
  daemon_.End(grpc::Status(grpc::StatusCode::INTERNAL, "broken"));
  told.WaitForNotification();
  EXPECT_TRUE(had_outcomes);
  EXPECT_EQ(sessions, 1);
  EXPECT_EQ(got.session_id, "session-1");
  EXPECT_EQ(ReasonOf(got.why), v1::ERROR_REASON_SESSION_LOST);
  EXPECT_THAT(std::string(got.why.message()), HasSubstr("broken"));
  ASSERT_EQ(got.unknown.size(), 2u);
  EXPECT_EQ(got.unknown[0].id, 1u);
  EXPECT_EQ(got.unknown[0].operation, "a.B/First");
  EXPECT_EQ(got.unknown[1].id, 3u);
  EXPECT_EQ(got.unknown[1].operation, "a.B/Third");
  EXPECT_EQ(ReasonOf(first->Await()), v1::ERROR_REASON_SESSION_LOST);
  daemon_.AwaitSessions(2);
  EndSession();
}

TEST_F(ReconnectTest, ADrainWithEverythingAnsweredIsALossOfNothing) {
  const RuntimeContext context = Context(Noting());
  v1::SessionResponse draining;
  draining.mutable_draining();
  daemon_.Send(draining);
  daemon_.End(ToGrpcStatus(
      MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING, "draining")));
  const SessionLost lost = losses_.Next();
  EXPECT_EQ(lost.why.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(lost.why), v1::ERROR_REASON_DRAINING);
  EXPECT_TRUE(lost.unknown.empty());
  daemon_.AwaitSessions(2);
  EndSession();
}

TEST_F(ReconnectTest, WhatADrainDidNotTakeNeverRan) {
  const RuntimeContext context = Context(Noting());
  const Invocation sent = context.DispatchAsync("a.B/C", Text(""));
  EXPECT_TRUE(daemon_.Next().has_value());
  daemon_.End(ToGrpcStatus(
      MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING, "draining")));
  const absl::Status status = sent.Await();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_DRAINING) << status;
  const SessionLost lost = losses_.Next();
  EXPECT_EQ(ReasonOf(lost.why), v1::ERROR_REASON_DRAINING);
  EXPECT_TRUE(lost.unknown.empty());
  daemon_.AwaitSessions(2);
  EndSession();
}

TEST_F(ReconnectTest, AnEndThatTheLastContextAskedForIsNoLoss) {
  std::thread daemon;
  {
    const RuntimeContext context = Context(Noting());
    context.DispatchAsync("a.B/C", Text(""));
    daemon = std::thread([this] {
      EXPECT_TRUE(daemon_.Next().has_value());
      EXPECT_EQ(daemon_.Next(), std::nullopt);
      daemon_.Send(Succeeded(1));
      daemon_.End(grpc::Status::OK);
    });
  }
  daemon.join();
  EXPECT_EQ(losses_.size(), 0u);
}

TEST_F(ReconnectTest, WhatIsLostWhileTheLastContextGoesIsToldBeforeItIsGone) {
  std::thread daemon;
  {
    const RuntimeContext context = Context(Noting());
    context.DispatchAsync("a.B/C", Text(""));
    daemon = std::thread([this] {
      EXPECT_TRUE(daemon_.Next().has_value());
      EXPECT_EQ(daemon_.Next(), std::nullopt);
      daemon_.End(grpc::Status::OK);
    });
  }
  ASSERT_EQ(losses_.size(), 1u);
  EXPECT_EQ(losses_.Next().unknown.size(), 1u);
  daemon.join();
}

TEST_F(ReconnectTest, ADispatchInTheCallbackIsForTheNextSession) {
  std::optional<RuntimeContext> context;
  std::optional<Invocation> inner;
  absl::Status blocking;
  absl::Notification told;
  ConnectOptions options = Options();
  options.on_session_lost = [&](const SessionLost&) {
    if (told.HasBeenNotified()) return;
    inner = context->DispatchAsync("a.B/C", Text("again"), {.when_full = WhenFull::kWait});
    blocking = context->DispatchBlocking<StringValue>("a.B/C", Text("")).status();
    told.Notify();
  };
  context = Context(options);
  daemon_.End(grpc::Status::OK);
  told.WaitForNotification();
  EXPECT_EQ(blocking.code(), absl::StatusCode::kFailedPrecondition);
  std::optional<v1::SessionRequest> request;
  while (!(request = daemon_.Next())) {
  }
  EXPECT_EQ(daemon_.sessions(), 2);
  daemon_.Send(Succeeded(request->dispatches(0).invocation_id()));
  EXPECT_TRUE(inner->Await().ok());
  EndSession();
}

TEST_F(ReconnectTest, TheLastContextMayGoInTheCallback) {
  auto context = std::make_unique<std::optional<RuntimeContext>>();
  absl::Notification told;
  ConnectOptions options = Options();
  options.on_session_lost = [&](const SessionLost&) {
    context->reset();
    told.Notify();  // twice would be an error
  };
  *context = Context(options);
  const Invocation invocation = (*context)->DispatchAsync("a.B/C", Text(""));
  daemon_.Next();
  daemon_.Stop();
  told.WaitForNotification();
  EXPECT_EQ(ReasonOf(invocation.Await()), v1::ERROR_REASON_SESSION_LOST);
}

TEST_F(ReconnectTest, OnceTheLastContextWentInAWatchCallbackNothingIsTold) {
  absl::Notification gone;
  auto context = std::make_unique<std::optional<RuntimeContext>>();
  {
    // Goes with the client.
    const std::shared_ptr<void> client(nullptr, [&gone](void*) { gone.Notify(); });
    ConnectOptions options = Options();
    options.on_session_lost = [this, client](const SessionLost& lost) { losses_.Add(lost); };
    *context = Context(options);
  }
  const Invocation invocation = (*context)->DispatchAsync("a.B/C", Text(""));
  daemon_.Next();
  invocation.Watch([&context](const absl::Status&) { context->reset(); });
  daemon_.Stop();
  gone.WaitForNotification();
  EXPECT_EQ(losses_.size(), 0u);
}

TEST_F(ReconnectTest, AClientWhoseDaemonIsGoneSleepsBetweenItsAttempts) {
  std::atomic<pid_t> thread = 0;
  ConnectOptions options = Options();
  options.on_session_lost = [&](const SessionLost& lost) {
    thread = gettid();
    losses_.Add(lost);
  };
  const RuntimeContext context = Context(options);
  daemon_.Stop();
  losses_.Next();
  // Several times: something that waits has become due, and there were attempts in between.
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(
        ReasonOf(
            context.DispatchAsync("a.B/C", Text(""), {.timeout = absl::Milliseconds(30)}).Await()),
        v1::ERROR_REASON_EXPIRED);
    while (!IsAsleep(thread)) std::this_thread::yield();
  }
}

TEST_F(ReconnectTest, ADaemonThatIsNotReadyIsNotFlooded) {
  const absl::Time before = Clock::Monotonic()->Now();
  const RuntimeContext context = Context();
  daemon_.SetRefusal(grpc::Status(grpc::StatusCode::UNAVAILABLE, "not ready"));
  daemon_.End(grpc::Status::OK);
  daemon_.AwaitSessions(6);
  // 20 ms, twice since it is watched from the first failure on, 40, 80 and 160 ms. A session that
  // stood for a second is followed by another at once, but lasted longer than all of these.
  EXPECT_GE(Clock::Monotonic()->Now() - before, absl::Milliseconds(320));
  EndSession();
}

TEST_F(ReconnectTest, ADaemonThatEndsEachSessionAtOnceIsNotFlooded) {
  ConnectOptions options = Options();
  absl::Time fifth_end;
  int ends = 0;
  absl::Notification enough;
  options.on_session_lost = [&](const SessionLost&) {
    if (++ends != 5) return;
    fifth_end = Clock::Monotonic()->Now();
    enough.Notify();
  };
  const absl::Time before = Clock::Monotonic()->Now();
  const RuntimeContext context = Context(options);
  for (int session = 1; session <= 5; ++session) {
    daemon_.AwaitSessions(session);
    daemon_.End(grpc::Status::OK);
  }
  enough.WaitForNotification();
  // 20, 40, 80 and 160 ms, or more than a second: see above.
  EXPECT_GE(fifth_end - before, absl::Milliseconds(300));
  EndSession();
}

}  // namespace
}  // namespace runloop::internal

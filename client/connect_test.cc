#include "runloop/client/connect.h"

#include <filesystem>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "google/protobuf/wrappers.pb.h"
#include "gtest/gtest.h"
#include "runloop/client/connect_fixture.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/error.h"

namespace runloop {
namespace {

using google::protobuf::BytesValue;
using google::protobuf::StringValue;
using internal::ConnectTest;
using internal::ErrorTo;
using internal::ReplyTo;
using internal::Succeeded;
using internal::Text;
using testing::HasSubstr;

TEST_F(ConnectTest, SaysHelloAndSendsDispatchesByTheIdsOfTheWelcome) {
  const RuntimeContext context = Context();
  EXPECT_EQ(daemon_.hello().client_name(), "test");
  EXPECT_EQ(daemon_.hello().versions().max(), 1u);
  const Invocation invocation =
      context.DispatchAsync<StringValue>("a.B/C", Text("x"), {.timeout = absl::Seconds(3)});
  const v1::SessionRequest request = *daemon_.Next();
  ASSERT_EQ(request.dispatches_size(), 1);
  EXPECT_EQ(request.dispatches(0).operation_id(), 7u);
  EXPECT_EQ(request.dispatches(0).timeout().seconds(), 3);
  EXPECT_TRUE(request.dispatches(0).reply_wanted());
  EXPECT_FALSE(invocation.done());
  daemon_.Send(ReplyTo(request.dispatches(0).invocation_id(), "y"));
  EXPECT_EQ(invocation.AwaitReply<StringValue>()->value(), "y");
  EndSession();
}

TEST_F(ConnectTest, ManyDispatchesKeepTheirOrderInFewMessages) {
  const RuntimeContext context = Context();
  std::vector<Invocation> invocations;
  for (int i = 0; i < 20'000; ++i) {
    invocations.push_back(context.DispatchAsync("a.B/C", Text(std::to_string(i))));
  }
  int messages = 0;
  uint64_t next = 0, last_id = 0;
  while (next < invocations.size()) {
    const v1::SessionRequest request = *daemon_.Next();
    ++messages;
    for (const v1::Dispatch& dispatch : request.dispatches()) {
      EXPECT_GT(dispatch.invocation_id(), last_id);
      last_id = dispatch.invocation_id();
      StringValue value;
      ASSERT_TRUE(value.ParseFromString(dispatch.request()));
      ASSERT_EQ(value.value(), std::to_string(next++));
    }
  }
  EXPECT_LT(messages, 10'000);
  daemon_.Send(Succeeded(last_id));
  for (const Invocation& invocation : invocations) EXPECT_TRUE(invocation.Await().ok());
  EndSession();
}

TEST_F(ConnectTest, AnErrorComesWithItsReason) {
  const RuntimeContext context = Context();
  const Invocation invocation = context.DispatchAsync("a.B/C", Text(""));
  daemon_.Next();
  daemon_.Send(
      ErrorTo(1, MakeError(absl::StatusCode::kInternal, v1::ERROR_REASON_HANDLER_THREW, "x")));
  EXPECT_EQ(ReasonOf(invocation.Await()), v1::ERROR_REASON_HANDLER_THREW);
  EndSession();
}

TEST_F(ConnectTest, ALostConnectionIsUnknownForWhatWasSentAndTheNextDispatchConnectsAgain) {
  const RuntimeContext context = Context();
  const Invocation sent = context.DispatchAsync("a.B/C", Text(""));
  daemon_.Next();
  daemon_.Stop();
  EXPECT_EQ(sent.Await().code(), absl::StatusCode::kUnknown);
  EXPECT_EQ(ReasonOf(sent.Await()), v1::ERROR_REASON_SESSION_LOST);
  EXPECT_EQ(daemon_.Next(), std::nullopt);

  const Invocation again = context.DispatchAsync("a.B/C", Text(""));
  EXPECT_FALSE(again.done());
  daemon_.Start();
  const v1::SessionRequest request = *daemon_.Next();
  daemon_.Send(Succeeded(request.dispatches(0).invocation_id()));
  EXPECT_TRUE(again.Await().ok());
  EXPECT_EQ(daemon_.sessions(), 2);
  EndSession();
}

TEST_F(ConnectTest, WithNobodyThereADispatchFailsAfterTheConnectTimeout) {
  ConnectOptions options = Options();
  options.connect_timeout = absl::Milliseconds(200);
  const RuntimeContext context = Context(options);
  EndSession();
  daemon_.Stop();
  absl::Status status = context.DispatchAsync("a.B/C", Text("")).Await();
  // The first may have been sent before the end was noticed.
  if (absl::IsUnknown(status)) status = context.DispatchAsync("a.B/C", Text("")).Await();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_NOT_CONNECTED);
}

TEST_F(ConnectTest, ConnectSaysThatNobodyListens) {
  daemon_.Stop();
  ConnectOptions options = Options();
  options.connect_timeout = absl::Milliseconds(50);
  const absl::Status status = Connect(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_NOT_CONNECTED);
  EXPECT_THAT(std::string(status.message()), HasSubstr("start runloopd, or set RUNLOOP_ADDRESS"));
}

TEST_F(ConnectTest, ConnectWaitsForADaemonThatStartsSoon) {
  daemon_.Stop();
  std::thread starter([this] { daemon_.Start(); });
  const RuntimeContext context = Context();
  starter.join();
  EndSession();
}

TEST_F(ConnectTest, ARefusalForGoodIsNotTriedAgain) {
  daemon_.SetRefusal(ToGrpcStatus(MakeError(absl::StatusCode::kFailedPrecondition,
                                            v1::ERROR_REASON_VERSION_MISMATCH, "too old")));
  EXPECT_EQ(ReasonOf(Connect(Options()).status()), v1::ERROR_REASON_VERSION_MISMATCH);
  EXPECT_EQ(daemon_.sessions(), 1);
}

TEST_F(ConnectTest, WhatIsNoAddressIsInvalid) {
  EXPECT_EQ(Connect({.address = "tcp://x:1"}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ConnectTest, ADaemonThatDrainsFromTheStartIsTriedAgain) {
  v1::SessionResponse draining;
  draining.mutable_draining();
  daemon_.SetWelcome(draining);
  ConnectOptions options = Options();
  options.connect_timeout = absl::Milliseconds(300);
  const absl::Status status = Connect(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_DRAINING) << status;
  EXPECT_GT(daemon_.sessions(), 1);

  std::thread restart([this, before = daemon_.sessions()] {
    while (daemon_.sessions() == before) std::this_thread::yield();  // it was tried and drains
    daemon_.SetWelcome(Welcome(0, 0));
  });
  const RuntimeContext context = Context();
  restart.join();
  EndSession();
}

TEST_F(ConnectTest, APeerThatDoesNotWelcomeIsNoDaemon) {
  daemon_.SetWelcome(Succeeded(0));
  EXPECT_EQ(ReasonOf(Connect(Options()).status()), v1::ERROR_REASON_PROTOCOL_VIOLATION);
}

TEST_F(ConnectTest, AnOutcomeForWhatWasNotSentLosesTheSession) {
  EXPECT_EQ(ReasonOf(OutcomeAfter(ReplyTo(2, ""))), v1::ERROR_REASON_SESSION_LOST);
}

TEST_F(ConnectTest, AnAcknowledgementOfWhatWasNotSentLosesTheSession) {
  EXPECT_EQ(ReasonOf(OutcomeAfter(Succeeded(2))), v1::ERROR_REASON_SESSION_LOST);
}

TEST_F(ConnectTest, AnOutcomeWithoutResultLosesTheSession) {
  v1::SessionResponse response;
  response.add_outcomes()->set_invocation_id(1);
  EXPECT_EQ(ReasonOf(OutcomeAfter(response)), v1::ERROR_REASON_SESSION_LOST);
}

TEST_F(ConnectTest, SuccessWithoutTheReplyThatWasAskedForIsAnError) {
  EXPECT_FALSE(OutcomeAfter(Succeeded(1)).ok());
}

TEST_F(ConnectTest, AReplyOfAnotherTypeIsAnErrorAndTheSessionGoesOn) {
  const RuntimeContext context = Context();
  const Invocation invocation = context.DispatchAsync<StringValue>("a.B/C", Text(""));
  daemon_.Next();
  v1::SessionResponse response = ReplyTo(1, "");
  response.mutable_outcomes(0)->set_reply("\xFF\xFF");
  daemon_.Send(response);
  EXPECT_EQ(invocation.AwaitReply<StringValue>().status().code(), absl::StatusCode::kInternal);
  const Invocation next = context.DispatchAsync("a.B/C", Text(""));
  daemon_.Next();
  daemon_.Send(Succeeded(2));
  EXPECT_TRUE(next.Await().ok());
  EndSession();
}

TEST_F(ConnectTest, WhileTheDaemonDrainsNewWorkIsRefusedAndOldWorkFinishes) {
  const RuntimeContext context = Context();
  const Invocation old = context.DispatchAsync("a.B/C", Text(""));
  daemon_.Next();
  const Invocation mark = context.DispatchAsync("a.B/C", Text(""));
  daemon_.Next();
  v1::SessionResponse draining = ErrorTo(2, absl::AbortedError("mark"));
  draining.mutable_draining();
  daemon_.Send(draining);
  EXPECT_EQ(mark.Await().code(), absl::StatusCode::kAborted);
  const absl::Status refused = context.DispatchAsync("a.B/C", Text("")).Await();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_DRAINING);
  daemon_.Send(Succeeded(1));
  EXPECT_TRUE(old.Await().ok());
  EndSession();
}

TEST_F(ConnectTest, ADispatchBeyondTheBytesBoundIsRefusedAtOnce) {
  ConnectOptions options = Options();
  options.max_unfinished_bytes = 10'000;
  const RuntimeContext context = Context(options);
  const Invocation first = context.DispatchAsync("a.B/C", Text(std::string(9'000, 'x')));
  const Invocation second = context.DispatchAsync("a.B/C", Text(std::string(9'000, 'x')));
  EXPECT_TRUE(second.done());
  EXPECT_EQ(ReasonOf(second.Await()), v1::ERROR_REASON_QUEUE_FULL);
  daemon_.Next();
  daemon_.Send(Succeeded(1));
  EXPECT_TRUE(first.Await().ok());
  const Invocation third = context.DispatchAsync("a.B/C", Text(std::string(9'000, 'x')));
  EXPECT_FALSE(third.done());
  EndSession();
}

TEST_F(ConnectTest, TheDaemonsLimitsAreKeptWithoutAsking) {
  daemon_.SetWelcome(Welcome(1'000, 2));
  const RuntimeContext context = Context();
  EXPECT_EQ(ReasonOf(context.DispatchAsync("a.B/C", Text(std::string(1'000, 'x'))).Await()),
            v1::ERROR_REASON_MESSAGE_TOO_LARGE);
  const Invocation first = context.DispatchAsync("a.B/C", Text(std::string(900, 'x')));
  const Invocation second = context.DispatchAsync("a.B/C", Text(std::string(900, 'x')));
  EXPECT_EQ(ReasonOf(context.DispatchAsync("a.B/C", Text("")).Await()),
            v1::ERROR_REASON_QUEUE_FULL);
  for (uint64_t sent = 0; sent < 2;) {
    const std::optional<v1::SessionRequest> request = daemon_.Next();
    ASSERT_TRUE(request.has_value());
    EXPECT_LE(request->ByteSizeLong(), 1'000u);
    // The place that dispatches them is told in a message of its own.
    if (request->dispatches_size() > 0) sent = request->dispatches().rbegin()->invocation_id();
  }
  daemon_.Send(Succeeded(2));
  EXPECT_TRUE(first.Await().ok());
  EXPECT_TRUE(second.Await().ok());
  EndSession();
}

TEST_F(ConnectTest, ANameThatNoOperationCanHaveIsUnknown) {
  const RuntimeContext context = Context();
  const Invocation invocation = context.DispatchAsync("\xFF", Text(""));
  EXPECT_EQ(ReasonOf(invocation.Await()), v1::ERROR_REASON_UNKNOWN_OPERATION);
  EndSession();
}

TEST_F(ConnectTest, ATimeoutThatHasPassedIsNotSent) {
  const RuntimeContext context = Context();
  const Invocation invocation =
      context.DispatchAsync("a.B/C", Text(""), {.timeout = absl::ZeroDuration()});
  EXPECT_TRUE(invocation.done());
  EXPECT_EQ(ReasonOf(invocation.Await()), v1::ERROR_REASON_EXPIRED);
  EndSession();
}

TEST_F(ConnectTest, CancelAsksTheDaemonOnce) {
  const RuntimeContext context = Context();
  const Invocation invocation = context.DispatchAsync("a.B/C", Text(""));
  daemon_.Next();
  invocation.Cancel();
  const v1::SessionRequest request = *daemon_.Next();
  ASSERT_EQ(request.cancels_size(), 1);
  EXPECT_EQ(request.cancels(0).invocation_id(), 1u);
  invocation.Cancel();
  daemon_.Send(
      ErrorTo(1, MakeError(absl::StatusCode::kCancelled, v1::ERROR_REASON_CANCELLED, "x")));
  EXPECT_EQ(invocation.Await().code(), absl::StatusCode::kCancelled);
  context.DispatchAsync("a.B/C", Text(""));
  EXPECT_EQ(daemon_.Next()->cancels_size(), 0);
  EndSession();
}

TEST_F(ConnectTest, ABlockingDispatchThatTheDaemonDidNotStartExpires) {
  const RuntimeContext context = Context();
  std::thread daemon([this] {
    daemon_.Next();
    EXPECT_EQ(daemon_.Next()->cancels_size(), 1);
    daemon_.Send(
        ErrorTo(1, MakeError(absl::StatusCode::kCancelled, v1::ERROR_REASON_CANCELLED, "x")));
  });
  const absl::Status status =
      context.DispatchBlocking<StringValue>("a.B/C", Text(""), {.timeout = absl::Milliseconds(10)})
          .status();
  daemon.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_EXPIRED);
  EndSession();
}

TEST_F(ConnectTest, ABlockingDispatchOfWhichTheDaemonSaysNothingIsLeftRunning) {
  ConnectOptions options = Options();
  options.internal.give_up_grace = absl::ZeroDuration();
  const RuntimeContext context = Context(options);
  const absl::Status status =
      context.DispatchBlocking<StringValue>("a.B/C", Text(""), {.timeout = absl::Milliseconds(10)})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_STILL_RUNNING);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("no word from the daemon on whether it started"));
  EndSession();
}

TEST_F(ConnectTest, TheLastContextHalfClosesAndWaitsForTheOutcomes) {
  std::optional<Invocation> invocation;
  std::thread daemon;
  {
    const RuntimeContext context = Context();
    const RuntimeContext copy = context;
    invocation = context.DispatchAsync("a.B/C", Text(""));
    daemon = std::thread([this] {
      EXPECT_TRUE(daemon_.Next().has_value());
      EXPECT_EQ(daemon_.Next(), std::nullopt);
      daemon_.Send(Succeeded(1));
      daemon_.End(grpc::Status::OK);
    });
  }
  EXPECT_TRUE(invocation->done());
  EXPECT_TRUE(invocation->Await().ok());
  daemon.join();
}

TEST_F(ConnectTest, TheLastContextMayGoInAWatchCallback) {
  auto context = std::make_unique<RuntimeContext>(Context());
  const Invocation invocation = context->DispatchAsync("a.B/C", Text(""));
  daemon_.Next();
  absl::Notification gone;
  invocation.Watch([&context, &gone](const absl::Status&) {
    context.reset();
    gone.Notify();
  });
  daemon_.Send(Succeeded(1));
  gone.WaitForNotification();
  EXPECT_EQ(daemon_.Next(), std::nullopt);
  EndSession();
}

TEST_F(ConnectTest, ABlockingCallInAWatchCallbackIsRefused) {
  const RuntimeContext context = Context();
  const Invocation invocation = context.DispatchAsync("a.B/C", Text(""));
  daemon_.Next();
  absl::Notification done;
  absl::Status inner;
  invocation.Watch([&](const absl::Status&) {
    inner = context.DispatchBlocking<StringValue>("a.B/C", Text("")).status();
    done.Notify();
  });
  daemon_.Send(Succeeded(1));
  done.WaitForNotification();
  EXPECT_EQ(inner.code(), absl::StatusCode::kFailedPrecondition);
  EndSession();
}

TEST_F(ConnectTest, ManySessionsLeaveNoThreadAndNoDescriptorBehind) {
  const auto count = [](const char* what) {
    return std::distance(std::filesystem::directory_iterator(what),
                         std::filesystem::directory_iterator());
  };
  const auto once = [this] {
    std::thread daemon([this] {
      EXPECT_EQ(daemon_.Next(), std::nullopt);
      daemon_.End(grpc::Status::OK);
    });
    Context();
    daemon.join();
  };
  for (int i = 0; i < 5; ++i) once();
  const auto fds = count("/proc/self/fd");
  const auto threads = count("/proc/self/task");
  for (int i = 0; i < 50; ++i) once();
  EXPECT_LE(count("/proc/self/fd"), fds + 4);
  EXPECT_LE(count("/proc/self/task"), threads + 4);
}

TEST_F(ConnectTest, ALargeRequestArrivesWhole) {
  const RuntimeContext context = Context();
  BytesValue value;
  value.set_value(std::string(size_t{8} << 20, 'z'));
  const Invocation invocation = context.DispatchAsync("a.B/C", value);
  // Where it was dispatched is told before it, in a message that has room.
  v1::SessionRequest request = *daemon_.Next();
  while (request.dispatches().empty()) request = *daemon_.Next();
  BytesValue got;
  ASSERT_TRUE(got.ParseFromString(request.dispatches(0).request()));
  EXPECT_EQ(got.value().size(), value.value().size());
  daemon_.Send(Succeeded(1));
  EXPECT_TRUE(invocation.Await().ok());
  EndSession();
}

}  // namespace
}  // namespace runloop

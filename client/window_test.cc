// Giving up, waiting for room, and coalescing.

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runloop/client/connect_fixture.h"
#include "runloop/v1/status.pb.h"

namespace runloop::internal {
namespace {

using google::protobuf::StringValue;
using testing::HasSubstr;
using testing::Not;

DispatchOptions Waiting() { return {.when_full = WhenFull::kWait}; }

absl::Status QueueFull(std::optional<absl::Duration> retry_delay) {
  absl::Status status = MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
                                  "full elsewhere");
  if (retry_delay.has_value()) {
    v1::RetryInfo info;
    info.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(*retry_delay));
    info.mutable_retry_delay()->set_nanos(
        static_cast<int32_t>(absl::ToInt64Nanoseconds(*retry_delay % absl::Seconds(1))));
    status.SetPayload("type.googleapis.com/google.rpc.RetryInfo",
                      absl::Cord(info.SerializeAsString()));
  }
  return status;
}

absl::Status StillRunning() {
  return MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                   "it runs on");
}

class WindowTest : public ConnectTest {
 protected:
  static void WelcomeBytes(ScriptedDaemon& daemon, uint64_t max_unfinished_bytes) {
    v1::SessionResponse welcome = Welcome(0, 0);
    welcome.mutable_welcome()->mutable_limits()->set_max_unfinished_bytes(max_unfinished_bytes);
    daemon.SetWelcome(welcome);
  }

  // Waits until `callers` wait for room: one that does not want to wait is told how many.
  static void AwaitCallers(const RuntimeContext& context, int callers, size_t bytes = 0) {
    const std::string words = std::to_string(callers) + " callers that wait";
    while (true) {
      const absl::Status status =
          context.DispatchAsync("a.B/C", Text(std::string(bytes, ' '))).Await();
      ASSERT_EQ(ReasonOf(status), v1::ERROR_REASON_QUEUE_FULL);
      if (absl::StrContains(status.message(), words)) return;
      std::this_thread::yield();
    }
  }

  // The text of the next dispatch, and its id in `last_id_`.
  std::string NextText() {
    const std::optional<v1::SessionRequest> request = daemon_.Next();
    EXPECT_TRUE(request.has_value());
    EXPECT_EQ(request->dispatches_size(), 1);
    last_id_ = request->dispatches(0).invocation_id();
    StringValue value;
    EXPECT_TRUE(value.ParseFromString(request->dispatches(0).request()));
    return value.value();
  }

  uint64_t last_id_ = 0;
};

TEST_F(WindowTest, ABlockingDispatchThatIsGivenUpHearsThatItRunsOn) {
  const RuntimeContext context = Context();
  std::thread daemon([this] {
    daemon_.Next();
    const v1::SessionRequest request = *daemon_.Next();
    ASSERT_EQ(request.cancels_size(), 1);
    EXPECT_EQ(request.cancels(0).invocation_id(), 1u);
    EXPECT_TRUE(request.cancels(0).give_up());
    daemon_.Send(ErrorTo(1, StillRunning()));
  });
  const absl::Status status =
      context.DispatchBlocking<StringValue>("a.B/C", Text(""), {.timeout = absl::Milliseconds(10)})
          .status();
  daemon.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_STILL_RUNNING);
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("no word")));
  EndSession();
}

TEST_F(WindowTest, AReplyThatCrossesTheGivingUpIsTooLateSinceWhatItMadeIsReleased) {
  const RuntimeContext context = Context();
  std::thread daemon([this] {
    daemon_.Next();
    EXPECT_TRUE(daemon_.Next()->cancels(0).give_up());
    daemon_.Send(ReplyTo(1, "just in time"));
  });
  const absl::StatusOr<StringValue> reply =
      context.DispatchBlocking<StringValue>("a.B/C", Text(""), {.timeout = absl::Milliseconds(10)});
  daemon.join();
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(reply.status()), v1::ERROR_REASON_STILL_RUNNING);
  EXPECT_THAT(std::string(reply.status().message()), HasSubstr("released"));
  EndSession();
}

TEST_F(WindowTest, AnAnswerThatComesLateSettlesWhatWasGivenUp) {
  daemon_.SetWelcome(Welcome(0, 1));
  ConnectOptions options = Options();
  options.internal.give_up_grace = absl::ZeroDuration();
  const RuntimeContext context = Context(options);
  const absl::Status status =
      context.DispatchBlocking<StringValue>("a.B/C", Text(""), {.timeout = absl::Milliseconds(10)})
          .status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("no word from the daemon"));
  EXPECT_EQ(ReasonOf(context.DispatchAsync("a.B/C", Text("")).Await()),
            v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_EQ(NextText(), "");
  daemon_.Next();
  daemon_.Send(ErrorTo(1, StillRunning()));
  const Invocation next = context.DispatchAsync("a.B/C", Text("next"), Waiting());
  EXPECT_EQ(NextText(), "next");
  daemon_.Send(Succeeded(last_id_));
  EXPECT_TRUE(next.Await().ok());
  EndSession();
}

TEST_F(WindowTest, TheCoalesceKeyIsSentAndWhatWasSupersededIsTold) {
  const RuntimeContext context = Context();
  const Invocation first = context.DispatchAsync("a.B/C", Text(""), {.coalesce_key = "größe"});
  EXPECT_EQ(daemon_.Next()->dispatches(0).coalesce_key(), "größe");
  daemon_.Send(
      ErrorTo(1, MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SUPERSEDED, "newer")));
  EXPECT_EQ(first.Await().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(first.Await()), v1::ERROR_REASON_SUPERSEDED);
  EndSession();
}

TEST_F(WindowTest, ACoalesceKeyThatIsTooLongOrNoTextIsInvalid) {
  const RuntimeContext context = Context();
  for (const std::string& key : {std::string(129, 'k'), std::string("\xFF"), std::string("\xC3")}) {
    const absl::Status status =
        context.DispatchAsync("a.B/C", Text(""), {.coalesce_key = key}).Await();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key;
    EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_INVALID_REQUEST) << key;
  }
  context.DispatchAsync("a.B/C", Text(""), {.coalesce_key = std::string(128, 'k')});
  EXPECT_EQ(daemon_.Next()->dispatches(0).coalesce_key().size(), 128u);
  EndSession();
}

TEST_F(WindowTest, CallersThatWaitForRoomGetItInTheirOrder) {
  daemon_.SetWelcome(Welcome(0, 1));
  const RuntimeContext context = Context();
  context.DispatchAsync("a.B/C", Text("0"), Waiting());
  EXPECT_EQ(NextText(), "0");
  std::vector<std::thread> threads;
  for (int i = 1; i <= 3; ++i) {
    threads.emplace_back([&context, i] {
      const Invocation own = context.DispatchAsync("a.B/C", Text(std::to_string(i)), Waiting());
      EXPECT_TRUE(own.Await().ok());
    });
    AwaitCallers(context, i);
  }
  for (int i = 1; i <= 3; ++i) {
    daemon_.Send(Succeeded(last_id_));
    EXPECT_EQ(NextText(), std::to_string(i));
  }
  daemon_.Send(Succeeded(last_id_));
  for (std::thread& thread : threads) thread.join();
  EndSession();
}

TEST_F(WindowTest, ASmallRequestDoesNotPassALargeOneThatWaits) {
  WelcomeBytes(daemon_, 1'000);
  const RuntimeContext context = Context();
  context.DispatchAsync("a.B/C", Text(std::string(900, '0')));
  NextText();
  std::vector<std::thread> threads;
  for (const size_t bytes : {size_t{900}, size_t{10}}) {
    threads.emplace_back([&context, bytes] {
      const std::string text(bytes, 'x');
      EXPECT_TRUE(context.DispatchAsync("a.B/C", Text(text), Waiting()).Await().ok());
    });
    AwaitCallers(context, static_cast<int>(threads.size()), 900);
  }
  daemon_.Send(Succeeded(last_id_));
  size_t got = 0;
  std::vector<size_t> sizes;
  while (sizes.size() < 2) {
    const std::optional<v1::SessionRequest> request = daemon_.Next();
    for (const v1::Dispatch& dispatch : request->dispatches()) {
      sizes.push_back(dispatch.request().size());
      got = dispatch.invocation_id();
    }
  }
  EXPECT_GT(sizes[0], 900u);
  EXPECT_LT(sizes[1], 900u);
  daemon_.Send(Succeeded(got));
  for (std::thread& thread : threads) thread.join();
  EndSession();
}

TEST_F(WindowTest, ACallerThatWaitsForRoomIsRefusedAtItsTimeout) {
  daemon_.SetWelcome(Welcome(0, 1));
  const RuntimeContext context = Context();
  context.DispatchAsync("a.B/C", Text("0"));
  EXPECT_EQ(NextText(), "0");
  std::thread patient([&context] {
    EXPECT_TRUE(context.DispatchAsync("a.B/C", Text("patient"), Waiting()).Await().ok());
  });
  AwaitCallers(context, 1);
  const Invocation hasty = context.DispatchAsync(
      "a.B/C", Text(""), {.timeout = absl::Milliseconds(10), .when_full = WhenFull::kWait});
  EXPECT_TRUE(hasty.done());
  EXPECT_EQ(hasty.Await().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(hasty.Await()), v1::ERROR_REASON_QUEUE_FULL);
  daemon_.Send(Succeeded(last_id_));
  EXPECT_EQ(NextText(), "patient");
  daemon_.Send(Succeeded(last_id_));
  patient.join();
  EndSession();
}

TEST_F(WindowTest, TheDaemonsBoundOnBytesIsWaitedForToo) {
  WelcomeBytes(daemon_, 1'000);
  const RuntimeContext context = Context();
  context.DispatchAsync("a.B/C", Text(std::string(900, 'x')));
  NextText();
  const absl::Status refused = context.DispatchAsync("a.B/C", Text(std::string(900, 'y'))).Await();
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("the daemon allows 1000"));
  std::thread caller([&context] {
    EXPECT_TRUE(
        context.DispatchAsync("a.B/C", Text(std::string(900, 'z')), Waiting()).Await().ok());
  });
  daemon_.Send(Succeeded(1));
  EXPECT_EQ(NextText(), std::string(900, 'z'));
  daemon_.Send(Succeeded(last_id_));
  caller.join();
  // There never is room for this one.
  EXPECT_EQ(
      ReasonOf(context.DispatchAsync("a.B/C", Text(std::string(1'000, 'x')), Waiting()).Await()),
      v1::ERROR_REASON_MESSAGE_TOO_LARGE);
  EndSession();
}

TEST_F(WindowTest, TheClientsBoundOnBytesIsWaitedForToo) {
  ConnectOptions options = Options();
  options.max_unfinished_bytes = 1'000;
  const RuntimeContext context = Context(options);
  context.DispatchAsync("a.B/C", Text(std::string(900, 'x')));
  NextText();
  std::thread caller([&context] {
    EXPECT_TRUE(
        context.DispatchAsync("a.B/C", Text(std::string(900, 'z')), Waiting()).Await().ok());
  });
  daemon_.Send(Succeeded(1));
  EXPECT_EQ(NextText(), std::string(900, 'z'));
  daemon_.Send(Succeeded(last_id_));
  caller.join();
  EXPECT_EQ(
      ReasonOf(context.DispatchAsync("a.B/C", Text(std::string(1'000, 'x')), Waiting()).Await()),
      v1::ERROR_REASON_MESSAGE_TOO_LARGE);
  EndSession();
}

TEST_F(WindowTest, InAWatchCallbackNothingWaitsForRoom) {
  daemon_.SetWelcome(Welcome(0, 1));
  const RuntimeContext context = Context();
  const Invocation first = context.DispatchAsync("a.B/C", Text(""));
  NextText();
  absl::Notification done;
  std::optional<Invocation> second, third;
  first.Watch([&](const absl::Status&) {
    second = context.DispatchAsync("a.B/C", Text(""), Waiting());
    third = context.DispatchAsync("a.B/C", Text(""), Waiting());
    done.Notify();
  });
  daemon_.Send(Succeeded(1));
  done.WaitForNotification();
  EXPECT_FALSE(second->done());
  EXPECT_EQ(ReasonOf(third->Await()), v1::ERROR_REASON_QUEUE_FULL);
  EndSession();
}

TEST_F(WindowTest, ACallerThatWaitsForRoomGetsItInTheNextSessionIfThisOneIsLost) {
  daemon_.SetWelcome(Welcome(0, 1));
  const RuntimeContext context = Context();
  context.DispatchAsync("a.B/C", Text("lost"));
  NextText();
  std::thread caller([&context] {
    EXPECT_TRUE(context.DispatchAsync("a.B/C", Text("next"), Waiting()).Await().ok());
  });
  AwaitCallers(context, 1);
  daemon_.Stop();
  EXPECT_EQ(daemon_.Next(), std::nullopt);
  daemon_.Start();
  EXPECT_EQ(NextText(), "next");
  daemon_.Send(Succeeded(last_id_));
  caller.join();
  EndSession();
}

TEST_F(WindowTest, ACallerForWhomTheNextSessionHasNoRoomIsRefusedAndHoldsUpNobody) {
  daemon_.SetWelcome(Welcome(0, 1));
  const RuntimeContext context = Context();
  context.DispatchAsync("a.B/C", Text(std::string(900, 'x')));
  NextText();
  std::thread large([&context] {
    EXPECT_EQ(
        ReasonOf(context.DispatchAsync("a.B/C", Text(std::string(900, 'y')), Waiting()).Await()),
        v1::ERROR_REASON_MESSAGE_TOO_LARGE);
  });
  AwaitCallers(context, 1);
  std::thread small([&context] {
    EXPECT_TRUE(
        context.DispatchAsync("a.B/C", Text(std::string(400, 'z')), Waiting()).Await().ok());
  });
  AwaitCallers(context, 2);
  WelcomeBytes(daemon_, 500);
  daemon_.Stop();
  EXPECT_EQ(daemon_.Next(), std::nullopt);
  daemon_.Start();
  EXPECT_EQ(NextText(), std::string(400, 'z'));
  daemon_.Send(Succeeded(last_id_));
  large.join();
  small.join();
  EndSession();
}

TEST_F(WindowTest, ADrainEndsTheWaitForRoom) {
  daemon_.SetWelcome(Welcome(0, 1));
  const RuntimeContext context = Context();
  context.DispatchAsync("a.B/C", Text(""));
  NextText();
  std::thread caller([&context] {
    EXPECT_EQ(ReasonOf(context.DispatchAsync("a.B/C", Text(""), Waiting()).Await()),
              v1::ERROR_REASON_DRAINING);
  });
  AwaitCallers(context, 1);
  v1::SessionResponse draining;
  draining.mutable_draining();
  daemon_.Send(draining);
  caller.join();
  EndSession();
}

TEST_F(WindowTest, ABlockingDispatchTriesAgainWhenTheDaemonIsFull) {
  const RuntimeContext context = Context();
  std::thread daemon([this] {
    EXPECT_EQ(NextText(), "x");
    daemon_.Send(ErrorTo(1, QueueFull(absl::Milliseconds(2))));
    EXPECT_EQ(NextText(), "x");
    daemon_.Send(ErrorTo(2, QueueFull(std::nullopt)));
    EXPECT_EQ(NextText(), "x");
    daemon_.Send(ReplyTo(3, "y"));
  });
  const absl::StatusOr<StringValue> reply =
      context.DispatchBlocking<StringValue>("a.B/C", Text("x"), Waiting());
  daemon.join();
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->value(), "y");
  EndSession();
}

TEST_F(WindowTest, ABlockingDispatchIsRefusedOnceItsTimeoutLeavesNoTimeForAnotherTry) {
  const RuntimeContext context = Context();
  std::thread daemon([this] {
    NextText();
    daemon_.Send(ErrorTo(1, QueueFull(absl::Hours(1))));
  });
  const absl::Status status =
      context
          .DispatchBlocking<StringValue>(
              "a.B/C", Text("x"),
              {.timeout = absl::Milliseconds(900), .when_full = WhenFull::kWait})
          .status();
  daemon.join();
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_EQ(std::string(status.message()), "full elsewhere");
  EndSession();
}

TEST_F(WindowTest, ABlockingDispatchThatDoesNotWaitIsRefusedAtOnce) {
  const RuntimeContext context = Context();
  std::thread daemon([this] {
    NextText();
    daemon_.Send(ErrorTo(1, QueueFull(absl::ZeroDuration())));
  });
  EXPECT_EQ(ReasonOf(context.DispatchBlocking<StringValue>("a.B/C", Text("x")).status()),
            v1::ERROR_REASON_QUEUE_FULL);
  daemon.join();
  EndSession();
}

TEST(RetryDelayTest, IsWhatTheStatusHintsAt) {
  EXPECT_EQ(RetryDelayOf(absl::OkStatus()), std::nullopt);
  EXPECT_EQ(RetryDelayOf(QueueFull(std::nullopt)), std::nullopt);
  EXPECT_EQ(RetryDelayOf(QueueFull(absl::Milliseconds(1500))), absl::Milliseconds(1500));
  EXPECT_EQ(RetryDelayOf(QueueFull(absl::Seconds(-3))), absl::ZeroDuration());
  absl::Status status = absl::AbortedError("x");
  status.SetPayload("type.googleapis.com/google.rpc.RetryInfo", absl::Cord("\xFF"));
  EXPECT_EQ(RetryDelayOf(status), std::nullopt);
}

}  // namespace
}  // namespace runloop::internal

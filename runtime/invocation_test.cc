#include "runloop/runtime/invocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

constexpr int kRounds = 1000;

std::shared_ptr<InvocationState> MakeInvocation() { return std::make_shared<InvocationState>(); }

Reply ReplyOf(std::string bytes) { return {.bytes = std::move(bytes), .has_bytes = true}; }

TEST(InvocationStateTest, TheFirstOutcomeCounts) {
  const auto invocation = MakeInvocation();
  EXPECT_FALSE(invocation->done());
  invocation->Finish(absl::AbortedError("first"));
  EXPECT_TRUE(invocation->done());
  invocation->Finish(ReplyOf("second"));
  EXPECT_THAT(invocation->SucceedWithoutWatchers(), testing::IsEmpty());
  EXPECT_EQ(invocation->Await(absl::InfiniteDuration()), absl::AbortedError("first"));
  EXPECT_EQ(invocation->AwaitReply(absl::InfiniteDuration()).status(), absl::AbortedError("first"));
}

TEST(InvocationStateTest, TheReplyIsTakenOnce) {
  for (const bool with_reply : {true, false}) {
    const auto invocation = MakeInvocation();
    invocation->Finish(with_reply ? ReplyOf("reply") : Reply());
    const absl::StatusOr<Reply> reply = invocation->AwaitReply(absl::ZeroDuration());
    ASSERT_TRUE(reply.ok());
    EXPECT_EQ(reply->has_bytes, with_reply);
    EXPECT_EQ(reply->bytes, with_reply ? "reply" : "");
    EXPECT_EQ(invocation->AwaitReply(absl::ZeroDuration()).status(),
              absl::FailedPreconditionError("the reply was taken before"));
    EXPECT_TRUE(invocation->Await(absl::ZeroDuration()).ok());
  }
}

TEST(InvocationStateTest, AWaitThatTimesOutCanBeRepeated) {
  const auto invocation = MakeInvocation();
  for (const absl::Duration timeout : {absl::ZeroDuration(), absl::Milliseconds(1)}) {
    EXPECT_EQ(ReasonOf(invocation->Await(timeout)), v1::ERROR_REASON_STILL_RUNNING);
  }
  EXPECT_FALSE(invocation->done());
  EXPECT_THAT(invocation->SucceedWithoutWatchers(), testing::IsEmpty());
  EXPECT_TRUE(invocation->Await(absl::InfiniteDuration()).ok());
}

TEST(InvocationStateTest, WatchersAreGivenToWhoeverFinishesIt) {
  const auto invocation = MakeInvocation();
  int calls = 0;
  for (int i = 0; i < 2; ++i) invocation->Watch([&](const absl::Status&) { ++calls; });
  InvocationState::Watchers watchers = invocation->FinishWithoutWatchers(absl::AbortedError(""));
  EXPECT_EQ(watchers.size(), 2u);
  EXPECT_EQ(calls, 0);
  invocation->Watch([&](const absl::Status& status) {
    EXPECT_TRUE(absl::IsAborted(status));
    ++calls;
  });
  EXPECT_EQ(calls, 1);
}

// Threads that finish, wait and watch at the same time.
TEST(InvocationStateTest, ThereIsOneOutcomeWhichAllHearOf) {
  for (int round = 0; round < kRounds; ++round) {
    const auto invocation = MakeInvocation();
    std::atomic<int> replies{0}, watched{0};
    std::vector<std::thread> threads;
    threads.emplace_back([&] { invocation->Finish(ReplyOf("a")); });
    threads.emplace_back([&] { invocation->Finish(ReplyOf("b")); });
    for (int i = 0; i < 2; ++i) {
      threads.emplace_back([&] {
        const absl::StatusOr<Reply> reply = invocation->AwaitReply(absl::InfiniteDuration());
        if (!reply.ok()) return;
        EXPECT_TRUE(reply->bytes == "a" || reply->bytes == "b");
        ++replies;
      });
      threads.emplace_back([&] {
        invocation->Watch([&](const absl::Status& status) {
          EXPECT_TRUE(status.ok());
          ++watched;
        });
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(replies.load(), 1);
    EXPECT_EQ(watched.load(), 2);
  }
}

}  // namespace
}  // namespace runloop::internal

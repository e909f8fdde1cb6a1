// Closures that nobody waits for: their nodes and their counts, as posts see them.

#include "runloop/runtime/closure_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime.h"

namespace runloop {
namespace {

std::unique_ptr<Runtime> NewRuntime(RuntimeThread thread, int64_t items = 1'000'000) {
  return *Runtime::Create({.thread = thread,
                           .bounds = {.total = {.items = items, .bytes = 1 << 20}},
                           .log = [](LogSeverity, std::string_view) {}});
}

void RunAll(Runtime& runtime) { EXPECT_TRUE(runtime.Drain(absl::Seconds(30)).drained); }

TEST(ClosurePool, CountsWhatThreadsHavePostedThatHaveEnded) {
  const auto runtime = NewRuntime(RuntimeThread::kBind);
  constexpr int kThreads = 5, kEach = 1'300;  // a slab has 511 nodes
  int ran = 0;
  for (int round = 1; round <= 2; ++round) {
    for (int i = 0; i < kThreads; ++i) {
      std::thread([&] {
        for (int k = 0; k < kEach; ++k) {
          ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([&] { ++ran; }).ok());
        }
      }).join();
    }
    EXPECT_EQ(runtime->GetSnapshot().ledger.queued, uint64_t{kThreads * kEach});
    ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([&] { runtime->Stop(); }).ok());
    ASSERT_TRUE(runtime->Run().ok());
    EXPECT_EQ(ran, round * kThreads * kEach);
  }
  const Ledger::Counts ledger = runtime->GetSnapshot().ledger;
  EXPECT_EQ(ledger.admitted, uint64_t{2 * (kThreads * kEach + 1)});
  EXPECT_EQ(ledger.succeeded, ledger.admitted);
}

TEST(ClosurePool, PassesALargeBoundByOneCreditAThreadAtMost) {
  constexpr int64_t kItems = 5'000;
  constexpr int kThreads = 4;
  const auto runtime = NewRuntime(RuntimeThread::kBind, kItems);
  std::atomic<int64_t> taken{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      while (true) {
        const absl::Status posted = runtime->context().RunOnRuntimeThreadAsync([] {});
        if (!posted.ok()) {
          EXPECT_EQ(ReasonOf(posted), v1::ERROR_REASON_QUEUE_FULL);
          return;
        }
        ++taken;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(taken, kItems);
  EXPECT_LE(taken, kItems + kThreads * internal::ClosurePool::kCredit);
  RunAll(*runtime);
}

TEST(ClosurePool, ASmallBoundIsExactForAllThreadsTogether) {
  const auto runtime = NewRuntime(RuntimeThread::kBind, 100);
  int taken = 0;
  for (int i = 0; i < 10; ++i) {
    std::thread([&] {
      for (int k = 0; k < 15; ++k) {
        taken += runtime->context().RunOnRuntimeThreadAsync([] {}).ok() ? 1 : 0;
      }
    }).join();
  }
  EXPECT_EQ(taken, 100);
  RunAll(*runtime);
}

// Posts while its thread's own storage is being destroyed.
struct PostsAtItsEnd {
  ~PostsAtItsEnd() {
    if (runtime == nullptr) return;
    for (int i = 0; i < 3; ++i) {
      EXPECT_TRUE(
          runtime->context().RunOnRuntimeThreadAsync([this_ran = ran] { ++*this_ran; }).ok());
    }
  }
  Runtime* runtime = nullptr;
  int* ran = nullptr;
};

TEST(ClosurePool, TakesWhatAThreadPostsAtItsVeryEnd) {
  const auto runtime = NewRuntime(RuntimeThread::kBind);
  int ran = 0;
  std::thread([&] {
    thread_local PostsAtItsEnd at_end;  // made first, destroyed last
    at_end.runtime = runtime.get();
    at_end.ran = &ran;
    ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([&] { ++ran; }).ok());
  }).join();
  RunAll(*runtime);
  EXPECT_EQ(ran, 4);
  EXPECT_EQ(runtime->GetSnapshot().ledger.succeeded, 4u);
}

TEST(ClosurePool, ClosuresOfAnySizeAreMovedRunAndDestroyedOnce) {
  const auto runtime = NewRuntime(RuntimeThread::kBind);
  const auto owned = std::make_shared<int>(7);
  std::string seen;
  const LocalRuntimeContext context = runtime->context();
  ASSERT_TRUE(context.RunOnRuntimeThreadAsync([owned, &seen] { seen += "small "; }).ok());
  ASSERT_TRUE(context
                  .RunOnRuntimeThreadAsync(
                      [owned, &seen, large = std::array<char, 500>{'x'}] { seen += large[0]; })
                  .ok());
  ASSERT_TRUE(context
                  .RunOnRuntimeThreadAsync([only = std::make_unique<int>(3), owned, &seen] {
                    seen += std::to_string(*only);
                  })
                  .ok());
  ASSERT_TRUE(context.RunOnRuntimeThreadAsync([owned] { throw std::runtime_error("no"); }).ok());
  EXPECT_EQ(owned.use_count(), 5);
  RunAll(*runtime);
  EXPECT_EQ(seen, "small x3");
  EXPECT_EQ(owned.use_count(), 1);
  EXPECT_EQ(runtime->GetSnapshot().ledger.failed, 1u);
}

TEST(ClosurePool, AThreadMayPostToManyRuntimesOneAfterTheOther) {
  for (int i = 0; i < 50; ++i) {
    const auto runtime = NewRuntime(RuntimeThread::kSpawn);
    const auto other = NewRuntime(RuntimeThread::kSpawn);
    std::atomic<int> ran{0};
    for (int k = 0; k < 100; ++k) {
      ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([&] { ++ran; }).ok());
      ASSERT_TRUE(other->context().RunOnRuntimeThreadAsync([&] { ++ran; }).ok());
    }
    RunAll(*runtime);
    RunAll(*other);
    EXPECT_EQ(ran, 200);
  }
}

TEST(ClosurePool, WhatARuntimeLeavesIsDestroyedUnrunAndCounted) {
  const auto owned = std::make_shared<int>(7);
  auto runtime = NewRuntime(RuntimeThread::kBind);
  const LocalRuntimeContext context = runtime->context();
  bool ran = false;
  for (int i = 0; i < 1'000; ++i) {
    ASSERT_TRUE(context.RunOnRuntimeThreadAsync([owned, &ran] { ran = true; }).ok());
  }
  const auto core = runtime->core();
  runtime.reset();
  EXPECT_FALSE(ran);
  EXPECT_EQ(owned.use_count(), 1);
  EXPECT_EQ(core->GetSnapshot().ledger.abandoned, 1'000u);
  EXPECT_EQ(ReasonOf(context.RunOnRuntimeThreadAsync([owned] {})),
            v1::ERROR_REASON_RUNTIME_STOPPED);
  EXPECT_EQ(owned.use_count(), 1);
}

}  // namespace
}  // namespace runloop

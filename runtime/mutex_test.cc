#include "runloop/runtime/mutex.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace runloop::internal {
namespace {

struct Shared {
  Mutex mutex;
  int number ABSL_GUARDED_BY(mutex) = 0;
  int awaiting ABSL_GUARDED_BY(mutex) = 0;

  int Get() {
    MutexLock lock(&mutex);
    return number;
  }
  void Set(int to) {
    MutexLock lock(&mutex);
    number = to;
  }
  void Await(int wanted) {
    MutexLock lock(&mutex);
    ++awaiting;
    mutex.Await([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return number == wanted; });
    --awaiting;
  }
  // Until so many are in Await: they hold the mutex until they wait in it.
  void AwaitAwaiting(int count) {
    MutexLock lock(&mutex);
    mutex.Await([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return awaiting == count; });
  }
};

TEST(MutexTest, LetsOneThreadInAtATime) {
  Shared shared;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int count = 0; count < 10'000; ++count) {
        MutexLock lock(&shared.mutex);
        ++shared.number;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(shared.Get(), 40'000);
}

TEST(MutexTest, AwaitReturnsAtOnceWhatHoldsAlready) {
  Shared shared;
  shared.Await(0);
}

TEST(MutexTest, EachAwaitReturnsWhenSomebodyUnlocksAndItsConditionHolds) {
  Shared shared;
  std::vector<std::thread> threads;
  for (const int wanted : {1, 2, 2, 3}) threads.emplace_back([&, wanted] { shared.Await(wanted); });
  shared.AwaitAwaiting(4);
  shared.Set(3);
  shared.AwaitAwaiting(3);
  shared.Set(1);
  shared.AwaitAwaiting(2);
  shared.Set(2);
  shared.AwaitAwaiting(0);
  for (std::thread& thread : threads) thread.join();
}

TEST(MutexTest, WhatAThreadDoesBeforeItAwaitsIsSeenByOthersThatDo) {
  Shared shared;
  std::thread other([&] {
    shared.Await(1);
    shared.Set(2);
  });
  shared.AwaitAwaiting(1);
  {
    MutexLock lock(&shared.mutex);
    shared.number = 1;
    shared.mutex.Await([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return shared.number == 2; });
  }
  other.join();
}

TEST(MutexTest, AwaitWithTimeoutSaysWhetherItHolds) {
  Shared shared;
  MutexLock lock(&shared.mutex);
  const auto is_one = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return shared.number == 1; };
  EXPECT_FALSE(shared.mutex.AwaitWithTimeout(is_one, -absl::InfiniteDuration()));
  EXPECT_FALSE(shared.mutex.AwaitWithTimeout(is_one, absl::Milliseconds(1)));
  shared.number = 1;
  EXPECT_TRUE(shared.mutex.AwaitWithTimeout(is_one, absl::ZeroDuration()));
}

TEST(CondVarTest, WakesWhoWaitsForALongTimeAndTellsWhoAwaitsACondition) {
  Shared shared;
  CondVar changed;
  std::thread other([&] {
    shared.Await(1);
    shared.Set(2);
    changed.Signal();
  });
  shared.AwaitAwaiting(1);
  {
    MutexLock lock(&shared.mutex);
    shared.number = 1;
    while (shared.number != 2) changed.WaitWithTimeout(&shared.mutex, absl::InfiniteDuration());
  }
  other.join();
}

TEST(CondVarTest, ReturnsAfterItsTimeout) {
  Shared shared;
  CondVar changed;
  MutexLock lock(&shared.mutex);
  changed.WaitWithTimeout(&shared.mutex, absl::Milliseconds(1));
  changed.WaitWithTimeout(&shared.mutex, -absl::Seconds(1));
}

}  // namespace
}  // namespace runloop::internal

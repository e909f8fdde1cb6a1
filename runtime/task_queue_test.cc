#include "runloop/runtime/task_queue.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace runloop::internal {
namespace {

struct NumberedTask final : Task {
  NumberedTask(int by, int index) : producer(by), number(index) {}
  RunResult Run() override { return RunResult::kSucceeded; }
  void Skip(OutcomeKind) override {}
  void Release() override { delete this; }
  const int producer, number;
};

TEST(TaskQueueTest, EachProducersTasksKeepTheirOrderAndNoneIsLost) {
  TaskQueue queue;
  constexpr int kProducers = 4, kEach = 50'000;
  std::vector<std::thread> threads;
  for (int p = 0; p < kProducers; ++p) {
    threads.emplace_back([&queue, p] {
      for (int i = 0; i < kEach; ++i) ASSERT_TRUE(queue.Push(new NumberedTask(p, i)));
    });
  }
  std::vector<int> next(kProducers, 0);
  for (int popped = 0; popped < kProducers * kEach;) {
    Task* const task = queue.Pop(absl::Now()).task;
    if (task == nullptr) continue;
    auto* numbered = static_cast<NumberedTask*>(task);
    ASSERT_EQ(numbered->number, next[numbered->producer]++);
    task->Release();
    ++popped;
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(queue.empty());
}

TEST(TaskQueueTest, IntakeByAnotherThreadKeepsTheOrder) {
  TaskQueue queue;
  constexpr int kTasks = 50'000;
  std::atomic<bool> done{false};
  std::thread service([&] {
    while (!done) queue.Intake(absl::Now());
  });
  std::thread producer([&] {
    for (int i = 0; i < kTasks; ++i) ASSERT_TRUE(queue.Push(new NumberedTask(0, i)));
  });
  for (int expected = 0; expected < kTasks;) {
    Task* const task = queue.Pop(absl::Now()).task;
    if (task == nullptr) continue;
    ASSERT_EQ(static_cast<NumberedTask*>(task)->number, expected++);
    task->Release();
  }
  done = true;
  producer.join();
  service.join();
}

TEST(TaskQueueTest, AClosedQueueGivesUpWhatItHasAndTakesNothing) {
  TaskQueue queue;
  ASSERT_TRUE(queue.Push(new NumberedTask(0, 0)));
  queue.Close(absl::Now());
  auto* const late = new NumberedTask(0, 1);
  EXPECT_FALSE(queue.Push(late));
  late->Release();
  Task* const task = queue.Pop(absl::Now()).task;
  ASSERT_NE(task, nullptr);
  task->Release();
  EXPECT_EQ(queue.Pop(absl::Now()).task, nullptr);
  EXPECT_TRUE(queue.empty());
}

TEST(TaskTest, ATaskStartsOrEndsOnce) {
  NumberedTask started(0, 0);
  EXPECT_TRUE(started.TryStart());
  EXPECT_FALSE(started.TryEnd());
  NumberedTask ended(0, 0);
  EXPECT_TRUE(ended.TryEnd());
  EXPECT_FALSE(ended.TryStart());
  EXPECT_FALSE(ended.TryEnd());
}

}  // namespace
}  // namespace runloop::internal

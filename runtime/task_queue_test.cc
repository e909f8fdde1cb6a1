#include "runloop/runtime/task_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace runloop::internal {
namespace {

struct NumberedTask final : Task {
  NumberedTask(int by, int index) : producer(by), number(index) {}
  RunResult Run() override { return RunResult::kSucceeded; }
  void Skip(const absl::Status&) override {}
  void Release() override { delete this; }
  const int producer, number;
};

const std::atomic<uint64_t> kNoneStarted{0};

TEST(TaskQueueTest, EachProducersTasksKeepTheirOrderAndNoneIsLost) {
  TaskQueue queue(kNoneStarted);
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
  TaskQueue queue(kNoneStarted);
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
  TaskQueue queue(kNoneStarted);
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

// Pops everything; `producer * 1000 + number` of each.
std::vector<int> PopAll(TaskQueue& queue) {
  std::vector<int> popped;
  while (Task* const task = queue.Pop(absl::Now()).task) {
    const auto* numbered = static_cast<NumberedTask*>(task);
    popped.push_back(numbered->producer * 1000 + numbered->number);
    task->Release();
  }
  return popped;
}

TEST(TaskQueueTest, AFloodInOneLaneMakesAnotherWaitForALanesDepthAtMost) {
  TaskQueue queue(kNoneStarted);
  Lane flood, other;
  for (int i = 0; i < 900; ++i) {
    auto* const task = new NumberedTask(1, i);
    task->lane = &flood;
    ASSERT_TRUE(queue.Push(task));
  }
  queue.Intake(absl::Now());
  for (int i = 0; i < 3; ++i) {
    auto* const task = new NumberedTask(2, i);
    task->lane = &other;
    ASSERT_TRUE(queue.Push(task));
  }
  const std::vector<int> popped = PopAll(queue);
  ASSERT_EQ(popped.size(), 903u);
  const auto place = [&](int item) {
    return std::find(popped.begin(), popped.end(), item) - popped.begin();
  };
  EXPECT_EQ(static_cast<size_t>(place(2000)), TaskQueue::kLaneDepth);
  EXPECT_LT(static_cast<size_t>(place(2002)), 2 * TaskQueue::kLaneDepth);
  for (int i = 1; i < 900; ++i) ASSERT_LT(place(1000 + i - 1), place(1000 + i));
}

TEST(TaskQueueTest, LanesThatDoNotFloodKeepTheOrderOfThePushes) {
  TaskQueue queue(kNoneStarted);
  Lane lanes[2];
  std::vector<int> expected;
  for (int i = 0; i < 2 * static_cast<int>(TaskQueue::kLaneDepth); ++i) {
    auto* const task = new NumberedTask(i % 2, i);
    task->lane = &lanes[i % 2];
    expected.push_back(i % 2 * 1000 + i);
    ASSERT_TRUE(queue.Push(task));
  }
  EXPECT_EQ(PopAll(queue), expected);
}

TEST(TaskQueueTest, TakesOutOneOrThoseWantedFromLineAndLane) {
  TaskQueue queue(kNoneStarted);
  Lane lane;
  std::vector<NumberedTask*> tasks;
  for (int i = 0; i < 100; ++i) {
    tasks.push_back(new NumberedTask(0, i));
    tasks.back()->lane = &lane;
    ASSERT_TRUE(queue.Push(tasks.back()));
  }
  for (const int i : {0, 50}) {  // one in the line, one in the lane
    EXPECT_TRUE(queue.Take(*tasks[i], absl::Now()));
    EXPECT_FALSE(queue.Take(*tasks[i], absl::Now()));
    tasks[i]->Release();
  }
  const std::vector<Task*> even = queue.TakeIf(absl::Now(), &lane, [](Task& task) {
    return static_cast<NumberedTask&>(task).number % 2 == 0;
  });
  ASSERT_EQ(even.size(), 48u);
  EXPECT_EQ(static_cast<NumberedTask*>(even.front())->number, 2);
  for (Task* const task : even) task->Release();
  const std::vector<int> left = PopAll(queue);
  ASSERT_EQ(left.size(), 50u);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(left[i], 2 * i + 1);
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(lane.in_line, 0u);
}

TEST(TaskQueueTest, AReplacementHasThePlaceOfTheOldOne) {
  TaskQueue queue(kNoneStarted);
  Lane lane;
  std::vector<NumberedTask*> tasks;
  for (int i = 0; i < 40; ++i) {
    tasks.push_back(new NumberedTask(0, i));
    tasks.back()->lane = &lane;
    ASSERT_TRUE(queue.Push(tasks.back()));
  }
  for (const int i : {3, 39}) {
    auto* const task = new NumberedTask(1, i);
    task->lane = &lane;
    EXPECT_TRUE(queue.Replace(*tasks[i], task, absl::Now()));
    tasks[i]->Release();
  }
  std::vector<int> popped = PopAll(queue);
  ASSERT_EQ(popped.size(), 40u);
  EXPECT_EQ(popped[3], 1003);
  EXPECT_EQ(popped[39], 1039);
}

// `count` tasks of one lane, pushed one by one.
void PushMany(TaskQueue& queue, Lane& lane, int producer, int count) {
  for (int i = 0; i < count; ++i) {
    auto* const task = new NumberedTask(producer, i);
    task->lane = &lane;
    task->priority = lane.priority;
    ASSERT_TRUE(queue.Push(task));
  }
}

TEST(TaskQueueTest, WhatIsMoreUrgentComesFirstAndNothingStarves) {
  TaskQueue queue(kNoneStarted);
  Lane lanes[kPriorities];
  for (int level = kPriorities - 1; level >= 0; --level) {
    lanes[level].priority = static_cast<Priority>(level);
    PushMany(queue, lanes[level], level, 640);
  }
  const std::vector<int> popped = PopAll(queue);
  ASSERT_EQ(popped.size(), 3u * 640);
  EXPECT_EQ(popped.front(), 0);
  int next[kPriorities] = {};
  size_t others[kPriorities] = {};
  for (const int item : popped) {
    const int level = item / 1000;
    EXPECT_EQ(item % 1000, next[level]++);
    others[level] = 0;
    // No line that is not empty is passed by more than is promised, of more urgent ones.
    for (int lower = level + 1; lower < kPriorities; ++lower) {
      ++others[lower];
      if (next[lower] == 640) continue;
      ASSERT_LT(others[lower], TaskQueue::kTurnEvery[lower]);
    }
  }
  // While all three wait, of 64 tasks one is background and seven or eight are default.
  const auto count = [&](int level) {
    return std::count_if(popped.begin(), popped.begin() + 640,
                         [&](int item) { return item / 1000 == level; });
  };
  EXPECT_EQ(count(2), 10);
  EXPECT_EQ(count(1), 78);
}

TEST(TaskQueueTest, WhatIsOfThisProcessHasALineForEachPriority) {
  TaskQueue queue(kNoneStarted);
  for (const Priority priority :
       {Priority::kBackground, Priority::kDefault, Priority::kInteractive}) {
    auto* const task = new NumberedTask(static_cast<int>(priority), 0);
    task->priority = priority;
    ASSERT_TRUE(queue.Push(task));
  }
  EXPECT_TRUE(queue.others_have_posts());
  EXPECT_FALSE(queue.urgent());
  queue.Intake(absl::Now());
  EXPECT_TRUE(queue.urgent());
  EXPECT_EQ(PopAll(queue), (std::vector<int>{0, 1000, 2000}));
  EXPECT_FALSE(queue.urgent());
}

// Pushes a batch; returns its tasks.
std::vector<NumberedTask*> PushBatch(TaskQueue& queue, Lane& lane, int producer, int count) {
  const auto batch = std::make_shared<TaskBatch>(false);
  std::vector<NumberedTask*> tasks;
  for (int i = 0; i < count; ++i) {
    auto* const task = new NumberedTask(producer, i);
    task->lane = &lane;
    task->priority = lane.priority;
    task->batch = batch;
    TaskQueue::LinkAfter(*task, tasks.empty() ? nullptr : tasks.back());
    tasks.push_back(task);
  }
  EXPECT_TRUE(queue.Push(tasks.back(), tasks.front()));
  return tasks;
}

TEST(TaskQueueTest, ABatchIsTakenInARow) {
  TaskQueue queue(kNoneStarted);
  Lane one, other, urgent;
  urgent.priority = Priority::kInteractive;
  PushMany(queue, one, 1, 20);
  PushBatch(queue, one, 2, 100);  // begins in the line, and is longer than a lane's part of it
  PushMany(queue, other, 3, 5);
  PushBatch(queue, one, 4, 100);  // waits in the lane
  PushMany(queue, one, 5, 1);
  std::vector<int> popped;
  while (Task* const task = queue.Pop(absl::Now()).task) {
    const auto& numbered = static_cast<const NumberedTask&>(*task);
    popped.push_back(numbered.producer * 1000 + numbered.number);
    // What is urgent passes those of its line, but for a batch that has begun.
    if (popped.back() == 2010) PushMany(queue, urgent, 9, 1);
    task->Release();
  }
  std::vector<int> expected;
  const auto expect = [&](int producer, int count) {
    for (int i = 0; i < count; ++i) expected.push_back(producer * 1000 + i);
  };
  expect(1, 20);
  expect(2, 100);
  expect(9, 1);
  expect(3, 5);
  expect(4, 100);
  expect(5, 1);
  EXPECT_EQ(popped, expected);
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(one.in_line, 0u);
}

TEST(TaskQueueTest, WhatIsTakenOutOfABatchDoesNotBreakIt) {
  TaskQueue queue(kNoneStarted);
  Lane lane, other, urgent;
  urgent.priority = Priority::kInteractive;
  PushMany(queue, lane, 1, 1);
  const std::vector<NumberedTask*> batch = PushBatch(queue, lane, 2, 70);
  PushMany(queue, other, 3, 1);
  const auto take = [&](size_t i) {
    ASSERT_TRUE(queue.Take(*batch[i], absl::Now()));
    batch[i]->Release();
  };
  take(0);   // before it begins
  take(69);  // its last one
  std::vector<int> popped, expected = {1000};
  while (Task* const task = queue.Pop(absl::Now()).task) {
    const auto& numbered = static_cast<const NumberedTask&>(*task);
    popped.push_back(numbered.producer * 1000 + numbered.number);
    if (popped.back() == 2001) {
      PushMany(queue, urgent, 9, 1);
      take(2);  // what would come next
      take(40);
    }
    task->Release();
  }
  for (int i = 1; i < 69; ++i) {
    if (i != 2 && i != 40) expected.push_back(2000 + i);
  }
  expected.push_back(9000);
  expected.push_back(3000);
  EXPECT_EQ(popped, expected);
}

TEST(TaskQueueTest, ABatchThatPassesOthersIsMadeUpFor) {
  TaskQueue queue(kNoneStarted);
  Lane urgent, lane;
  urgent.priority = Priority::kInteractive;
  PushBatch(queue, urgent, 1, 80);
  PushMany(queue, urgent, 2, 20);
  PushMany(queue, lane, 3, 30);
  const std::vector<int> popped = PopAll(queue);
  ASSERT_EQ(popped.size(), 130u);
  // 80 have passed the other line, and so ten of it follow before the next.
  for (int i = 0; i < 10; ++i) EXPECT_EQ(popped[80 + i], 3000 + i);
  EXPECT_EQ(popped[90], 2000);
}

TEST(TaskQueueTest, NothingIsOwedToALineInWhichNothingWaits) {
  TaskQueue queue(kNoneStarted);
  Lane urgent, lane;
  urgent.priority = Priority::kInteractive;
  PushBatch(queue, urgent, 1, 80);
  PushMany(queue, lane, 2, 1);
  EXPECT_EQ(PopAll(queue).size(), 81u);
  PushMany(queue, lane, 3, 10);
  PushMany(queue, urgent, 4, 1);
  EXPECT_EQ(PopAll(queue).front(), 4000);
}

TEST(TaskQueueTest, NothingIsOwedToALineWhoseLastOneWasTakenOut) {
  for (const bool by_one : {true, false}) {
    TaskQueue queue(kNoneStarted);
    Lane urgent, lane;
    urgent.priority = Priority::kInteractive;
    PushBatch(queue, urgent, 1, 80);
    PushMany(queue, lane, 2, 1);
    Task* waiting = nullptr;
    queue.LookAtFirst(absl::Now(), 81, [&](const Task* task, const ClosureNode*) {
      waiting = const_cast<Task*>(task);
    });
    for (int i = 0; i < 80; ++i) queue.Pop(absl::Now()).task->Release();
    if (by_one) {
      ASSERT_TRUE(queue.Take(*waiting, absl::Now()));
    } else {
      ASSERT_EQ(queue.TakeIf(absl::Now(), nullptr, [](Task&) { return true; }).size(), 1u);
    }
    waiting->Release();
    PushMany(queue, lane, 3, 10);
    PushMany(queue, urgent, 4, 1);
    EXPECT_EQ(PopAll(queue).front(), 4000);
  }
}

// Closures that Pop has given, as RuntimeCore deals with them.
class ClosuresInHand : public testing::Test {
 protected:
  static constexpr size_t kTaken = 5;
  ClosuresInHand() {
    for (ClosureNode& node : nodes_) {
      node.Emplace([] {}, CallSite());
      EXPECT_TRUE(queue_.Push(&node));
    }
    EXPECT_EQ(queue_.Pop(absl::Now()).closures, &nodes_[0]);
    urgent_.priority = Priority::kInteractive;
    background_.priority = Priority::kBackground;
  }
  ~ClosuresInHand() override {
    for (ClosureNode& node : nodes_) node.Drop();
    while (Task* const task = queue_.Pop(absl::Now()).task) task->Release();
  }
  // The producer of what comes before the next closure; 0: it is the closure's turn.
  int Next() {
    Task* const task = queue_.Pop(absl::Now(), /*closures_in_hand=*/true).task;
    if (task == nullptr) return 0;
    const int producer = static_cast<NumberedTask*>(task)->producer;
    task->Release();
    return producer;
  }

  std::atomic<uint64_t> started_{0};
  TaskQueue queue_{started_};
  Lane urgent_, background_;
  ClosureNode nodes_[kTaken];
};

TEST_F(ClosuresInHand, HaveTheirTurnHoweverMuchIsUrgent) {
  PushMany(queue_, urgent_, 1, 100);
  for (size_t closure = 0; closure < kTaken; ++closure) {
    for (int i = 0; i < 7; ++i) ASSERT_EQ(Next(), 1);
    ASSERT_EQ(Next(), 0);
    started_.fetch_add(1);
  }
}

TEST_F(ClosuresInHand, ComeAfterABatchThatHasBegun) {
  PushMany(queue_, urgent_, 1, 64);
  PushBatch(queue_, background_, 2, 3);
  for (int next = Next(); next != 2; next = Next()) {
    if (next == 0) started_.fetch_add(1);
  }
  // Nothing is urgent any more, and the batch goes on all the same.
  for (Task* const task : queue_.TakeIf(absl::Now(), nullptr, [](Task& task) {
         return task.priority == Priority::kInteractive;
       })) {
    task->Release();
  }
  EXPECT_TRUE(queue_.urgent());
  EXPECT_EQ(Next(), 2);
  EXPECT_EQ(Next(), 2);
  EXPECT_FALSE(queue_.urgent());
  EXPECT_EQ(Next(), 0);
}

}  // namespace
}  // namespace runloop::internal

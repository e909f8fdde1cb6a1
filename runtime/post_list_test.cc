// Goes through the interleavings of the post list's and the sleeping loop's atomic steps: every
// order in which the threads can be switched up to kSwitches times before one of them has to wait.

#include "runloop/runtime/post_list.h"

#include <gtest/gtest.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

namespace runloop::internal {
namespace {

constexpr int kSwitches = 3;

// Runs a few threads of a test as coroutines, one step at a time, in an order that it is given; and
// finds the next order. A step ends at an atomic operation.
class Scheduler {
 public:
  static Scheduler* current;

  // Runs `make()`'s threads in every order, or until `enough` after one; each order gets threads
  // and state of its own. Returns how many orders there were.
  int64_t Explore(
      const std::function<std::vector<std::function<void()>>()>& make,
      const std::function<bool()>& enough = [] { return false; }) {
    current = this;
    int64_t orders = 0;
    do {
      RunOnce(make());
      ++orders;
    } while (!testing::Test::HasFailure() && !enough() && NextOrder());
    current = nullptr;
    return orders;
  }

  // Called by a thread before each atomic operation.
  void Step() { SwitchBack(); }
  // The thread cannot go on until `ready`.
  void WaitFor(std::function<bool()> ready) {
    Thread& self = *threads_[running_];
    self.ready = std::move(ready);
    SwitchBack();
    self.ready = nullptr;
  }

 private:
  static constexpr size_t kStack = 64 << 10;
  struct Thread {
    ucontext_t context{};
    std::function<void()> body;
    std::function<bool()> ready;  // null: it can go on
    bool done = false;
    const std::unique_ptr<char[]> stack{new char[kStack]};
  };
  struct Choice {
    int taken;               // index into `among`
    std::vector<int> among;  // threads
  };

  static void Entry() {
    Scheduler& scheduler = *current;
    Thread& self = *scheduler.threads_[scheduler.running_];
    self.body();
    self.done = true;
    scheduler.SwitchBack();
  }

  void SwitchBack() { swapcontext(&threads_[running_]->context, &main_); }

  void RunOnce(std::vector<std::function<void()>> bodies) {
    while (threads_.size() < bodies.size()) threads_.push_back(std::make_unique<Thread>());
    for (size_t i = 0; i < bodies.size(); ++i) {
      Thread& thread = *threads_[i];
      thread.body = std::move(bodies[i]);
      thread.done = false;
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = thread.stack.get();
      thread.context.uc_stack.ss_size = kStack;
      makecontext(&thread.context, Entry, 0);
    }
    size_t depth = 0;
    int switches = 0, last = -1;
    while (true) {
      std::vector<int> can;
      bool all_done = true;
      for (int i = 0; i < static_cast<int>(threads_.size()); ++i) {
        const Thread& thread = *threads_[i];
        all_done = all_done && thread.done;
        if (!thread.done && (!thread.ready || thread.ready())) can.push_back(i);
      }
      if (all_done) return;
      if (can.empty()) {
        ADD_FAILURE() << "all threads wait: a wake was lost";
        return;
      }
      const bool goes_on = std::find(can.begin(), can.end(), last) != can.end();
      if (goes_on && switches == kSwitches) can = {last};
      if (goes_on) std::swap(*std::find(can.begin(), can.end(), last), can.front());
      if (depth == choices_.size()) choices_.push_back({.taken = 0, .among = can});
      const int next = choices_[depth].among[choices_[depth].taken];
      ++depth;
      if (goes_on && next != last) ++switches;
      last = running_ = next;
      swapcontext(&main_, &threads_[next]->context);
    }
  }

  bool NextOrder() {
    while (!choices_.empty()) {
      Choice& last = choices_.back();
      if (++last.taken < static_cast<int>(last.among.size())) return true;
      choices_.pop_back();
    }
    return false;
  }

  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Choice> choices_;
  ucontext_t main_{};
  int running_ = 0;
};

Scheduler* Scheduler::current = nullptr;

// An atomic whose every operation is a step.
template <typename T>
class Stepped {
 public:
  Stepped(T value) : value_(value) {}  // NOLINT: as std::atomic's
  T load(std::memory_order) const {
    Scheduler::current->Step();
    return value_;
  }
  void store(T value, std::memory_order) {
    Scheduler::current->Step();
    value_ = value;
  }
  T exchange(T value, std::memory_order) {
    Scheduler::current->Step();
    return std::exchange(value_, value);
  }
  bool compare_exchange_weak(T& expected, T desired, std::memory_order,
                             std::memory_order = std::memory_order_seq_cst) {
    Scheduler::current->Step();
    if (value_ == expected) {
      value_ = desired;
      return true;
    }
    expected = value_;
    return false;
  }

 private:
  T value_;
};

struct Item : QueueItem {
  int producer = 0, number = 0;
};

// A loop and those that post to it, as RuntimeCore has them.
struct World {
  static constexpr int kProducers = 3;

  explicit World(int items_each) : items(kProducers * items_each), each(items_each) {}

  void Produce(int producer) {
    for (int i = 0; i < each; ++i) {
      Item& item = items[producer * each + i];
      item.producer = producer;
      item.number = i;
      if (!posts.Push(&item)) {
        ++refused;
        continue;
      }
      ++accepted;
      if (sleep.NeedsWake()) woken = true;  // the eventfd: level, not lost
    }
    ++produced;
  }

  void TakeAll(const ItemList& list) {
    for (QueueItem* item = list.first; item != nullptr; item = ItemList::Next(*item)) {
      const auto& taken = static_cast<Item&>(*item);
      EXPECT_EQ(taken.number, next[taken.producer]) << "of producer " << taken.producer;
      next[taken.producer] = taken.number + 1;
      ++got;
    }
  }

  // Runs until it has all.
  void Consume() {
    const int all = kProducers * each;
    while (true) {
      sleep.Awake();
      do {
        TakeAll(posts.Take());
        if (got == all) return;
      } while (!sleep.Announce([this] { return posts.empty(); }));
      Scheduler::current->WaitFor([this] { return woken; });
      woken = false;
    }
  }

  BasicPostList<Stepped> posts;
  BasicLoopSleep<Stepped> sleep;
  bool woken = false;
  std::vector<Item> items;
  const int each;
  std::array<int, kProducers> next{};
  int got = 0, accepted = 0, refused = 0, produced = 0;
};

TEST(PostListInterleavings, ThreeProducersAndASleepingConsumerLoseNothingAndNoWake) {
  std::shared_ptr<World> world;
  Scheduler scheduler;
  const int64_t orders = scheduler.Explore([&] {
    world = std::make_shared<World>(1);
    std::vector<std::function<void()>> threads = {[world] { world->Consume(); }};
    for (int p = 0; p < World::kProducers; ++p)
      threads.emplace_back([world, p] { world->Produce(p); });
    return threads;
  });
  std::printf("%lld orders\n", static_cast<long long>(orders));
  EXPECT_GT(orders, 10'000) << "the search does not go through the interleavings";
}

TEST(PostListInterleavings, WhatIsPushedWhileTheListClosesIsTakenOrRefusedAndNeverBoth) {
  std::shared_ptr<World> world;
  Scheduler scheduler;
  const int64_t orders = scheduler.Explore([&] {
    if (world != nullptr) {
      EXPECT_EQ(world->got, world->accepted);
    }
    world = std::make_shared<World>(2);
    std::vector<std::function<void()>> threads = {[world] {
      world->TakeAll(world->posts.Take());
      world->TakeAll(world->posts.Close());
      EXPECT_TRUE(world->posts.Take().empty());
    }};
    for (int p = 0; p < World::kProducers; ++p)
      threads.emplace_back([world, p] { world->Produce(p); });
    return threads;
  });
  EXPECT_EQ(world->got, world->accepted);
  EXPECT_GT(orders, 10'000);
}

// That the search would find it: a loop that looks before it announces that it sleeps.
TEST(PostListInterleavings, ALoopThatAnnouncesSleepTooLateWouldBeFound) {
  std::shared_ptr<World> world;
  bool lost = false;
  Scheduler scheduler;
  const auto make = [&] {
    world = std::make_shared<World>(1);
    lost = false;
    std::vector<std::function<void()>> threads = {[&lost, world] {
      world->sleep.Awake();
      while (true) {
        world->TakeAll(world->posts.Take());
        if (world->got == World::kProducers) return;
        if (!world->posts.empty()) continue;
        (void)world->sleep.Announce([] { return true; });
        Scheduler::current->WaitFor(
            [&lost, world] { return world->woken || world->produced == World::kProducers; });
        lost = !world->woken;  // nobody posts any more, nor wakes it
        world->woken = false;
        if (lost) return;
      }
    }};
    for (int p = 0; p < World::kProducers; ++p)
      threads.emplace_back([world, p] { world->Produce(p); });
    return threads;
  };
  scheduler.Explore(make, [&] { return lost; });
  EXPECT_TRUE(lost);
}

}  // namespace
}  // namespace runloop::internal

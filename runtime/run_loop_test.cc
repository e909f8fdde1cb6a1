// One suite for every backend: what a Runtime may expect of a run loop.

#include "runloop/runtime/run_loop.h"

#include <glib.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/epoll_loop.h"
#include "runloop/runtime/event_fd.h"
#include "runloop/runtime/external_loop.h"
#include "runloop/runtime/glib/glib_loop.h"
#include "runloop/runtime/intake_source.h"
#include "runloop/runtime/runtime.h"

namespace runloop {
namespace {

// RunWhatIsReady: `begin`, and then a few turns of the loop, none of which waits; also from inside
// a task, if the loop nests. Gives how many turns had something to do.
constexpr int kTurns = 10;

struct Epoll {
  static constexpr bool kNests = false;
  static std::unique_ptr<RunLoop> New() { return NewEpollLoop(); }
  static int RunWhatIsReady(
      RunLoop& loop, const std::function<void()>& begin = [] {}) {
    auto& epoll = dynamic_cast<EpollLoop&>(loop);
    // Ready beside the others, so that it is seen with them.
    const EventFd end;
    end.Signal();
    int turns = 0;
    EXPECT_TRUE(epoll
                    .AddFd(end.fd(), EPOLLIN,
                           [&](uint32_t) {
                             // The first turn has the wake of the last Quit.
                             if (++turns == 2) begin();
                             if (turns == kTurns) loop.Quit();
                           })
                    .ok());
    EXPECT_TRUE(loop.Run().ok());
    EXPECT_TRUE(epoll.RemoveFd(end.fd()).ok());
    return turns;
  }
};
struct Glib {
  static constexpr bool kNests = true;
  static std::unique_ptr<RunLoop> New() { return NewGlibLoop(); }
  static int RunWhatIsReady(
      RunLoop&, const std::function<void()>& begin = [] {}) {
    begin();
    int turns = 0;
    while (turns < kTurns && g_main_context_iteration(nullptr, FALSE)) ++turns;
    return turns;
  }
};
struct External {
  static constexpr bool kNests = true;
  static std::unique_ptr<RunLoop> New() { return std::make_unique<ExternalLoop>(); }
  static int RunWhatIsReady(
      RunLoop& loop, const std::function<void()>& begin = [] {}) {
    auto& external = dynamic_cast<ExternalLoop&>(loop);
    begin();
    int turns = 0;
    for (pollfd ready{.fd = external.fd(), .events = POLLIN, .revents = 0};
         turns < kTurns && poll(&ready, 1, 0) > 0; ++turns) {
      external.Drain();
    }
    return turns;
  }
};

template <typename Backend>
class RunLoopTest : public testing::Test {
 protected:
  // Dispatches until `done` says so.
  void RunUntil(const std::function<bool()>& done) {
    if (auto* external = dynamic_cast<ExternalLoop*>(loop_.get())) {
      while (!done()) {
        pollfd ready{.fd = external->fd(), .events = POLLIN, .revents = 0};
        ASSERT_GT(poll(&ready, 1, 10'000), 0) << "nothing woke the loop";
        external->Drain();
      }
      return;
    }
    ASSERT_TRUE(loop_->Run().ok());
    ASSERT_TRUE(done());
  }

  std::unique_ptr<RunLoop> loop_ = Backend::New();
};

using Backends = testing::Types<Epoll, Glib, External>;
TYPED_TEST_SUITE(RunLoopTest, Backends);

TYPED_TEST(RunLoopTest, AWakeFromAnotherThreadRunsTheWorkOnTheLoopsThread) {
  std::thread::id ran_on;
  ASSERT_TRUE(this->loop_
                  ->Attach([&](const DrainBudget&) {
                    ran_on = std::this_thread::get_id();
                    this->loop_->Quit();
                    return false;
                  })
                  .ok());
  std::thread other([&] { this->loop_->Wake(); });
  this->RunUntil([&] { return ran_on != std::thread::id(); });
  other.join();
  EXPECT_EQ(ran_on, std::this_thread::get_id());
  this->loop_->Detach();
}

TYPED_TEST(RunLoopTest, AWakeBeforeTheLoopRunsIsNotLost) {
  int runs = 0;
  ASSERT_TRUE(this->loop_
                  ->Attach([&](const DrainBudget&) {
                    ++runs;
                    this->loop_->Quit();
                    return false;
                  })
                  .ok());
  this->loop_->Wake();
  this->RunUntil([&] { return runs > 0; });
  EXPECT_EQ(runs, 1);
  this->loop_->Detach();
}

TYPED_TEST(RunLoopTest, WakesAtTheTimeThatWasSetLastAndNotBefore) {
  bool woken = false;
  ASSERT_TRUE(this->loop_
                  ->Attach([&](const DrainBudget&) {
                    woken = true;
                    this->loop_->Quit();
                    return false;
                  })
                  .ok());
  const absl::Time begin = Clock::Monotonic()->Now();
  ASSERT_TRUE(this->loop_->WakeAt(begin + absl::Microseconds(1)).ok());
  std::thread other([&] { ASSERT_TRUE(this->loop_->WakeAt(begin + absl::Milliseconds(20)).ok()); });
  other.join();
  this->RunUntil([&] { return woken; });
  EXPECT_GE(Clock::Monotonic()->Now(), begin + absl::Milliseconds(20));
  woken = false;
  ASSERT_TRUE(this->loop_->WakeAt(begin).ok());
  this->RunUntil([&] { return woken; });  // a time that has passed is now
  this->loop_->Detach();
}

TYPED_TEST(RunLoopTest, ARuntimesTimersRunOnItNotBeforeTheirTimesAndInTheirOrder) {
  RunLoop* const loop = this->loop_.get();
  auto* const external = dynamic_cast<ExternalLoop*>(loop);
  auto runtime = *Runtime::Create({.loop = std::move(this->loop_)});
  const LocalRuntimeContext context = runtime->context();
  const absl::Time begin = Clock::Monotonic()->Now();
  std::vector<std::pair<int, absl::Duration>> ran;
  const auto add = [&](int delay_ms) {
    ASSERT_TRUE(context
                    .RunAfter(absl::Milliseconds(delay_ms),
                              [&, delay_ms] {
                                ran.emplace_back(delay_ms, Clock::Monotonic()->Now() - begin);
                              })
                    .ok());
  };
  // Before the loop runs, from another thread while it sleeps, and on the runtime thread.
  add(20);
  add(5);
  int ticks = 0;
  ASSERT_TRUE(context
                  .RunEvery(absl::Milliseconds(2),
                            [&] {
                              if (++ticks == 3) add(30);
                              if (ran.size() == 4) loop->Quit();
                            })
                  .ok());
  std::thread other([&] { add(10); });
  other.join();
  if (external != nullptr) {
    while (ran.size() < 4) {
      pollfd ready{.fd = external->fd(), .events = POLLIN, .revents = 0};
      ASSERT_GT(poll(&ready, 1, 10'000), 0) << "nothing woke the loop";
      external->Drain();
    }
  } else {
    ASSERT_TRUE(runtime->Run().ok());
  }
  ASSERT_EQ(ran.size(), 4u);
  int before = 0;
  for (const auto& [delay_ms, at] : ran) {
    EXPECT_GE(at, absl::Milliseconds(delay_ms));
    EXPECT_GT(delay_ms, before);
    before = delay_ms;
  }
}

TYPED_TEST(RunLoopTest, WorkThatIsLeftRunsAgainWithoutAWake) {
  int runs = 0;
  ASSERT_TRUE(this->loop_
                  ->Attach([&](const DrainBudget&) {
                    if (++runs < 100) return true;
                    this->loop_->Quit();
                    return false;
                  })
                  .ok());
  this->loop_->Wake();
  this->RunUntil([&] { return runs >= 100; });
  EXPECT_EQ(runs, 100);
  this->loop_->Detach();
}

TYPED_TEST(RunLoopTest, AfterDetachNothingRuns) {
  bool ran = false;
  ASSERT_TRUE(this->loop_
                  ->Attach([&](const DrainBudget&) {
                    ran = true;
                    return false;
                  })
                  .ok());
  this->loop_->Wake();
  this->loop_->Detach();
  this->loop_->Quit();
  if (this->loop_->can_run()) {
    EXPECT_TRUE(this->loop_->Run().ok());
  } else {
    EXPECT_FALSE(dynamic_cast<ExternalLoop&>(*this->loop_).Drain());
  }
  EXPECT_FALSE(ran);
}

TYPED_TEST(RunLoopTest, AQuitBeforeRunMakesTheNextRunReturnAndOnlyThat) {
  if (!this->loop_->can_run()) {
    EXPECT_EQ(this->loop_->Run().code(), absl::StatusCode::kFailedPrecondition);
    return;
  }
  int runs = 0;
  ASSERT_TRUE(this->loop_
                  ->Attach([&](const DrainBudget&) {
                    ++runs;
                    this->loop_->Quit();
                    return false;
                  })
                  .ok());
  this->loop_->Quit();
  ASSERT_TRUE(this->loop_->Run().ok());
  this->loop_->Wake();
  ASSERT_TRUE(this->loop_->Run().ok());
  EXPECT_EQ(runs, 1);
  this->loop_->Detach();
}

TYPED_TEST(RunLoopTest, ARuntimeOnItRunsAHundredThousandClosuresOfFourThreadsInOrder) {
  RunLoop* const loop = this->loop_.get();
  auto runtime = Runtime::Create({.loop = std::move(this->loop_)});
  ASSERT_TRUE(runtime.ok()) << runtime.status();
  constexpr int kThreads = 4, kEach = 25'000;
  std::vector<std::vector<int>> seen(kThreads);
  std::atomic<int> left{kThreads * kEach};
  const LocalRuntimeContext context = (*runtime)->context();
  absl::Notification go;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      go.WaitForNotification();
      for (int i = 0; i < kEach; ++i) {
        const absl::Status posted = context.RunOnRuntimeThreadAsync([&, t, i] {
          seen[t].push_back(i);
          if (left.fetch_sub(1) == 1) (*runtime)->Stop();
        });
        ASSERT_TRUE(posted.ok()) << posted;
      }
    });
  }
  go.Notify();
  if (loop->can_run()) {
    ASSERT_TRUE((*runtime)->Run().ok());
  } else {
    auto& external = dynamic_cast<ExternalLoop&>(*loop);
    while (left.load() > 0) {
      pollfd ready{.fd = external.fd(), .events = POLLIN, .revents = 0};
      ASSERT_GT(poll(&ready, 1, 10'000), 0);
      external.Drain();
    }
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<int>& items : seen) {
    ASSERT_EQ(items.size(), static_cast<size_t>(kEach));
    for (int i = 0; i < kEach; ++i) ASSERT_EQ(items[i], i);
  }
}

TYPED_TEST(RunLoopTest, AReadableDescriptorMakesTheWorkRunUntilItIsNotWatched) {
  const EventFd descriptor;
  int runs = 0;
  ASSERT_TRUE(this->loop_
                  ->Attach([&](const DrainBudget&) {
                    ++runs;
                    descriptor.Clear();
                    return false;
                  })
                  .ok());
  ASSERT_TRUE(this->loop_->WakeOn(descriptor.fd()).ok());
  const auto runs_after = [&](const std::function<void()>& event) {
    int before = 0;
    TypeParam::RunWhatIsReady(*this->loop_, [&] {
      before = runs;
      event();
    });
    return runs - before;
  };
  EXPECT_EQ(runs_after([] {}), 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(runs_after([&] { descriptor.Signal(); }), 1);
  this->loop_->StopWakingOn(descriptor.fd());
  EXPECT_EQ(runs_after([&] { descriptor.Signal(); }), 0);
  // Another may be watched then.
  const EventFd other;
  ASSERT_TRUE(this->loop_->WakeOn(other.fd()).ok());
  EXPECT_EQ(runs_after([] {}), 0);
  EXPECT_GT(runs_after([&] { other.Signal(); }), 0);
  this->loop_->StopWakingOn(other.fd());
  this->loop_->Detach();
}

// Something that wakes the loop, and is to be looked at.
class CountedIntake final : public internal::IntakeSource {
 public:
  int wake_fd() const override { return descriptor_.fd(); }
  void Collect() override {
    ++collected;
    descriptor_.Clear();
  }
  bool HasWork() override { return false; }
  void Serve(absl::Time) override { ++served; }
  bool AnnounceSleep() override { return true; }

  void Ring() { descriptor_.Signal(); }

  std::atomic<int> collected{0}, served{0};

 private:
  const EventFd descriptor_;
};

TYPED_TEST(RunLoopTest, ADescriptorThatWakesALoopInsideATaskIsCollectedOnceAndServedAfterTheTask) {
  RunLoop& loop = *this->loop_;
  auto runtime = Runtime::Create({.loop = std::move(this->loop_)});
  ASSERT_TRUE(runtime.ok()) << runtime.status();
  const auto intake = std::make_shared<CountedIntake>();
  ASSERT_TRUE((*runtime)->core()->AddIntake(intake).ok());
  TypeParam::RunWhatIsReady(loop, [&] { intake->Ring(); });
  EXPECT_GE(intake->collected, 1);
  EXPECT_GE(intake->served, 1);
  if (TypeParam::kNests) {
    bool ran = false;
    ASSERT_TRUE((*runtime)
                    ->context()
                    .RunOnRuntimeThreadAsync([&] {
                      TypeParam::RunWhatIsReady(loop);
                      const int collected = intake->collected, served = intake->served;
                      intake->Ring();
                      EXPECT_EQ(TypeParam::RunWhatIsReady(loop), 1);
                      EXPECT_EQ(intake->collected, collected + 1);
                      EXPECT_EQ(intake->served, served);
                      ran = true;
                    })
                    .ok());
    const int served = intake->served;
    TypeParam::RunWhatIsReady(loop);
    EXPECT_TRUE(ran);
    EXPECT_GT(intake->served, served);
  }
  (*runtime)->core()->RemoveIntake(*intake);
  int collected = 0;
  TypeParam::RunWhatIsReady(loop, [&] {
    collected = intake->collected;
    intake->Ring();
  });
  EXPECT_EQ(intake->collected, collected);
}

TYPED_TEST(RunLoopTest, WhatALoopInsideATaskInPlaceHasCollectedIsServedAfterIt) {
  if (!TypeParam::kNests) return;
  RunLoop& loop = *this->loop_;
  auto runtime = Runtime::Create({.loop = std::move(this->loop_)});
  ASSERT_TRUE(runtime.ok()) << runtime.status();
  const auto intake = std::make_shared<CountedIntake>();
  ASSERT_TRUE((*runtime)->core()->AddIntake(intake).ok());
  // The loop has run, and sleeps.
  loop.Wake();
  TypeParam::RunWhatIsReady(loop);
  const int collected = intake->collected, served = intake->served;
  // On the runtime thread it runs here and now, outside the loop.
  ASSERT_TRUE((*runtime)
                  ->context()
                  .RunOnRuntimeThreadBlocking([&] {
                    intake->Ring();
                    TypeParam::RunWhatIsReady(loop);
                    EXPECT_EQ(intake->collected, collected + 1);
                  })
                  .ok());
  EXPECT_EQ(intake->served, served);
  EXPECT_GT(TypeParam::RunWhatIsReady(loop), 0);
  EXPECT_GT(intake->served, served);
  (*runtime)->core()->RemoveIntake(*intake);
}

TEST(EpollLoopTest, ADescriptorThatIsReadyCallsBackBetweenSlicesOfAFlood) {
  auto owned = std::make_unique<EpollLoop>();
  EpollLoop* const loop = owned.get();
  auto runtime = Runtime::Create({.loop = std::move(owned)});
  ASSERT_TRUE(runtime.ok());
  const LocalRuntimeContext context = (*runtime)->context();
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  ASSERT_EQ(write(pipe_fds[1], "x", 1), 1);
  int calls = 0;
  std::atomic<bool> flood{true};
  ASSERT_TRUE(loop->AddFd(pipe_fds[0], EPOLLIN,
                          [&](uint32_t events) {
                            EXPECT_TRUE(events & EPOLLIN);
                            if (++calls < 3) return;
                            flood = false;
                            EXPECT_TRUE(loop->RemoveFd(pipe_fds[0]).ok());
                            (*runtime)->Stop();
                          })
                  .ok());
  EXPECT_EQ(loop->AddFd(pipe_fds[0], EPOLLIN, [](uint32_t) {}).code(),
            absl::StatusCode::kAlreadyExists);
  std::function<void()> again = [&] {
    if (flood) {
      ASSERT_TRUE(context.RunOnRuntimeThreadAsync(again).ok());
    }
  };
  ASSERT_TRUE(context.RunOnRuntimeThreadAsync(again).ok());
  ASSERT_TRUE((*runtime)->Run().ok());
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(loop->RemoveFd(pipe_fds[0]).code(), absl::StatusCode::kNotFound);
  close(pipe_fds[0]);
  close(pipe_fds[1]);
}

}  // namespace
}  // namespace runloop

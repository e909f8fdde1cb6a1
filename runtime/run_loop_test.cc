// One suite for every backend: what a Runtime may expect of a run loop.

#include "runloop/runtime/run_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "runloop/runtime/epoll_loop.h"
#include "runloop/runtime/external_loop.h"
#include "runloop/runtime/glib/glib_loop.h"
#include "runloop/runtime/runtime.h"

namespace runloop {
namespace {

struct Epoll {
  static std::unique_ptr<RunLoop> New() { return NewEpollLoop(); }
};
struct Glib {
  static std::unique_ptr<RunLoop> New() { return NewGlibLoop(); }
};
struct External {
  static std::unique_ptr<RunLoop> New() { return std::make_unique<ExternalLoop>(); }
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

// Slices of queued work, on a clock that moves by itself.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "runloop/runtime/clock.h"
#include "runloop/runtime/external_loop.h"
#include "runloop/runtime/runtime.h"

namespace runloop {
namespace {

// Calls something at a look to come.
class WatchedClock final : public Clock {
 public:
  absl::Time Now() const override {
    if (std::this_thread::get_id() == test_ && looks_left_ > 0 && --looks_left_ == 0) {
      std::exchange(at_look_, nullptr)();
    }
    return absl::UnixEpoch() + absl::Seconds(seconds_.load());
  }
  void WaitUntil(absl::Mutex* mutex, absl::CondVar* changed, absl::Time) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    changed->Wait(mutex);
  }

  // The so many-th look of the test's thread from here on.
  void AtLook(int look, std::function<void()> call) {
    looks_left_ = look;
    at_look_ = std::move(call);
  }
  void AdvanceAnHour() { seconds_ += 3600; }

 private:
  const std::thread::id test_ = std::this_thread::get_id();
  std::atomic<int64_t> seconds_{3600};
  // The test's thread's.
  mutable int looks_left_ = 0;
  mutable std::function<void()> at_look_;
};

struct OwnLoop {
  explicit OwnLoop(RuntimeOptions options = {}) {
    auto owned = std::make_unique<ExternalLoop>();
    loop = owned.get();
    options.loop = std::move(owned);
    options.log = [](LogSeverity, std::string_view) {};
    runtime = *Runtime::Create(std::move(options));
  }

  ExternalLoop* loop;
  std::unique_ptr<Runtime> runtime;
};

TEST(SliceTest, RunsOneThingHoweverSmallItsBudget) {
  for (const DrainBudget budget :
       {DrainBudget{.time = absl::ZeroDuration()}, DrainBudget{.time = -absl::Seconds(1)},
        DrainBudget{.tasks = 0}, DrainBudget{.tasks = -1}}) {
    OwnLoop own({.budget = budget});
    int ran = 0;
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(own.runtime->context().RunOnRuntimeThreadAsync([&] { ++ran; }).ok());
    }
    for (int i = 1; i <= 3; ++i) {
      own.loop->Drain();
      EXPECT_EQ(ran, i);
    }
  }
}

TEST(SliceTest, WhoseTimeIsOverBeforeItFindsSomethingRunsThat) {
  static WatchedClock clock;  // outlives the runtime
  OwnLoop own({.clock = &clock});
  const LocalRuntimeContext context = own.runtime->context();
  int ran = 0;
  ASSERT_TRUE(context.RunAfter(absl::Hours(1), [&] { ++ran; }).ok());
  while (own.loop->Drain()) {
  }
  // At the begin of the slice, and before it would sleep, to see whether what is delayed is due.
  clock.AtLook(2, [&] {
    clock.AdvanceAnHour();
    EXPECT_TRUE(context.RunOnRuntimeThreadAsync([&] { ++ran; }).ok());
  });
  while (own.loop->Drain()) {
  }
  EXPECT_EQ(ran, 2);
}

}  // namespace
}  // namespace runloop

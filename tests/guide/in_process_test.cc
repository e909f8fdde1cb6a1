// The guide's chapters on one process: closures, timers, runtimes that wait for each other.

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/clock.h"
#include "runloop/tests/guide/fixture.h"
#include "runloop/tests/testing/fake_clock.h"

namespace acme {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// What is drawn in the guide.
class Window {
 public:
  void Resize(int width) { width_ = width; }
  int width() const { return width_; }
  void Redraw() { ++drawn_; }
  int drawn() const { return drawn_; }
  void Hide() { hidden_.Notify(); }
  void AwaitHidden() { hidden_.WaitForNotification(); }

 private:
  std::atomic<int> width_{0}, drawn_{0};
  absl::Notification hidden_;
};

TEST(GuideInProcess, ARuntimeHasAThreadOfItsOwn) {
  // [runtime]
  absl::StatusOr<std::unique_ptr<runloop::Runtime>> runtime =
      runloop::Runtime::Create({.thread = runloop::RuntimeThread::kSpawn});
  runloop::LocalRuntimeContext local = (*runtime)->context();
  // [/runtime]
  EXPECT_FALSE(local.OnRuntimeThread());
  EXPECT_TRUE(*local.RunOnRuntimeThreadBlocking([local] { return local.OnRuntimeThread(); }));
}

TEST_F(GuideTest, ClosuresAreHandedOver) {
  Start();
  const runloop::LocalRuntimeContext local = runtime_->context();
  const auto window = std::make_shared<Window>();
  // [closures]
  absl::Status queued = local.RunOnRuntimeThreadAsync([window] { window->Redraw(); });
  absl::Status resized = local.RunOnRuntimeThreadBlocking([window] { window->Resize(640); });
  absl::StatusOr<int> width =
      local.RunOnRuntimeThreadBlocking([window] { return window->width(); });
  // [/closures]
  EXPECT_TRUE(queued.ok()) << queued;
  EXPECT_TRUE(resized.ok()) << resized;
  ASSERT_TRUE(width.ok()) << width.status();
  EXPECT_EQ(*width, 640);
  EXPECT_EQ(window->drawn(), 1);
}

TEST_F(GuideTest, ABlockingClosureHasADeadline) {
  Start();
  const runloop::LocalRuntimeContext local = runtime_->context();
  const auto window = std::make_shared<Window>();
  HoldThread();
  // [closure_deadline]
  absl::Status drawn =
      local.RunOnRuntimeThreadBlocking([window] { window->Redraw(); }, absl::Milliseconds(20));
  bool never_runs = runloop::ReasonOf(drawn) == runloop::v1::ERROR_REASON_EXPIRED;
  bool runs_on = runloop::ReasonOf(drawn) == runloop::v1::ERROR_REASON_STILL_RUNNING;
  // [/closure_deadline]
  EXPECT_TRUE(never_runs) << drawn;
  EXPECT_FALSE(runs_on);
  LetGo();
  EXPECT_TRUE(local.RunOnRuntimeThreadBlocking([] {}).ok());
  EXPECT_EQ(window->drawn(), 0);
}

TEST_F(GuideTest, ClosuresRunLaterAndAgainAndAgain) {
  Start();
  const runloop::LocalRuntimeContext local = runtime_->context();
  const auto window = std::make_shared<Window>();
  // [timers]
  absl::StatusOr<runloop::Timer> hide =
      local.RunAfter(absl::Milliseconds(20), [window] { window->Hide(); });
  absl::StatusOr<runloop::Timer> redraw =
      local.RunEvery(absl::Milliseconds(5), [window] { window->Redraw(); });
  // [/timers]
  ASSERT_TRUE(hide.ok()) << hide.status();
  ASSERT_TRUE(redraw.ok()) << redraw.status();
  window->AwaitHidden();
  while (window->drawn() < 2) std::this_thread::yield();
  // [timer_cancel]
  bool ended_by_this = redraw->Cancel();  // from now on no run starts
  // [/timer_cancel]
  EXPECT_TRUE(ended_by_this);
  EXPECT_FALSE(hide->Cancel());
}

TEST(GuideInProcess, ACycleOfWaitsIsAnError) {
  const auto camera_runtime = *runloop::Runtime::Create({.thread = runloop::RuntimeThread::kSpawn});
  const auto window_runtime = *runloop::Runtime::Create({.thread = runloop::RuntimeThread::kSpawn});
  const runloop::LocalRuntimeContext camera = camera_runtime->context();
  const runloop::LocalRuntimeContext window = window_runtime->context();
  // [deadlock]
  absl::Status refused = camera.RunOnRuntimeThreadBlocking([camera, window] {
    return window.RunOnRuntimeThreadBlocking([camera] {
      return camera.RunOnRuntimeThreadBlocking([] {});  // its thread waits for this very closure
    });
  });
  bool deadlock = runloop::ReasonOf(refused) == runloop::v1::ERROR_REASON_DEADLOCK;
  // [/deadlock]
  EXPECT_TRUE(deadlock) << refused;
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr(camera_runtime->id().substr(0, 8)));
  EXPECT_THAT(std::string(refused.message()), HasSubstr(window_runtime->id().substr(0, 8)));
}

TEST(GuideInProcess, WhatIsSlowIsLogged) {
  runloop::FakeClock clock;
  absl::Mutex mutex;
  absl::CondVar changed;
  std::vector<std::string> lines;
  const auto write_line = [&](std::string_view line) {
    absl::MutexLock lock(&mutex);
    lines.emplace_back(line);
    changed.SignalAll();
  };
  // [slow]
  runloop::RuntimeOptions options;
  options.thread = runloop::RuntimeThread::kSpawn;
  options.slow_queue_wait = absl::Milliseconds(500);
  options.slow_execution = absl::Milliseconds(20);
  options.log = [&](runloop::LogSeverity, std::string_view line) { write_line(line); };
  // [/slow]
  options.clock = &clock;
  const auto runtime = *runloop::Runtime::Create(std::move(options));
  ASSERT_TRUE(runtime->context()
                  .RunOnRuntimeThreadBlocking([&] { clock.Advance(absl::Milliseconds(30)); })
                  .ok());
  {
    absl::MutexLock lock(&mutex);
    while (lines.empty()) changed.Wait(&mutex);
    EXPECT_THAT(lines, ElementsAre(testing::AllOf(HasSubstr("slow: (closure), called at "),
                                                  HasSubstr("guide/in_process_test.cc:"),
                                                  HasSubstr("ran for 30ms"))));
  }
  EXPECT_EQ(runtime->GetSnapshot().slow, 1u);
}

TEST(GuideInProcess, TheHostPublishesAndOthersSubscribe) {
  runloop::OperationRegistry operations;
  // [topic]
  absl::Status added = operations.RegisterTopic<DescribeReply>("acme.v1.Camera/Changed");
  // [/topic]
  ASSERT_TRUE(added.ok()) << added;
  const auto runtime = *runloop::Runtime::Create(
      {.operations = std::move(operations), .thread = runloop::RuntimeThread::kSpawn});
  const runloop::RuntimeContext context = runtime->context().AsRuntimeContext();
  const runloop::LocalRuntimeContext local = runtime->context();
  // [subscribe]
  absl::StatusOr<runloop::Subscription<DescribeReply>> changes =
      context.Subscribe<DescribeReply>("acme.v1.Camera/Changed");  // a worker
  // [/subscribe]
  ASSERT_TRUE(changes.ok()) << changes.status();
  // [publish]
  DescribeReply changed;
  changed.set_width(1280);
  absl::Status published = local.Publish("acme.v1.Camera/Changed", changed);  // the host
  // [/publish]
  ASSERT_TRUE(published.ok()) << published;
  // [next]
  std::optional<runloop::Notification<DescribeReply>> next = changes->Next(absl::Seconds(30));
  uint32_t width = next.has_value() ? next->message->width() : 0;
  // [/next]
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(width, 1280u);
  EXPECT_EQ(next->dropped, 0u);
}

}  // namespace
}  // namespace acme

#include "runloop/runtime/glib/glib_loop.h"

#include <glib.h>
#include <gtest/gtest.h>

#include <functional>

#include "runloop/runtime/runtime.h"
#include "runloop/v1/handles.pb.h"

namespace runloop {
namespace {

// GDK_PRIORITY_REDRAW, which is G_PRIORITY_HIGH_IDLE + 20.
constexpr int kRedrawPriority = 120;

struct CountedSource {
  int runs = 0;
  std::function<void()> on_run;

  static gboolean Run(gpointer data) {
    auto* self = static_cast<CountedSource*>(data);
    ++self->runs;
    self->on_run();
    return G_SOURCE_CONTINUE;
  }
};

class GlibLoopTest : public testing::Test {
 protected:
  GlibLoopTest() : context_(g_main_context_new()) {
    absl::StatusOr<std::unique_ptr<Runtime>> created =
        Runtime::Create({.loop = NewGlibLoop({.context = context_})});
    runtime_ = *std::move(created);
  }
  ~GlibLoopTest() override {
    runtime_.reset();
    g_main_context_unref(context_);
  }

  // Posts a closure that posts itself again for ever: the queue is never empty.
  void Flood() {
    again_ = [this] {
      ++flooded_;
      if (!stop_flood_) {
        ASSERT_TRUE(runtime_->context().RunOnRuntimeThreadAsync(again_).ok());
      }
    };
    ASSERT_TRUE(runtime_->context().RunOnRuntimeThreadAsync(again_).ok());
  }

  GSource* AddSource(GSource* source, int priority, CountedSource& counted) {
    g_source_set_priority(source, priority);
    g_source_set_callback(source, CountedSource::Run, &counted, nullptr);
    g_source_attach(source, context_);
    return source;
  }

  void StopIf(bool condition) {
    if (!condition) return;
    stop_flood_ = true;
    runtime_->Stop();
  }

  static void Remove(GSource* source) {
    g_source_destroy(source);
    g_source_unref(source);
  }

  GMainContext* const context_;
  std::unique_ptr<Runtime> runtime_;
  std::function<void()> again_;
  bool stop_flood_ = false;
  int64_t flooded_ = 0;
};

TEST_F(GlibLoopTest, AFloodStarvesNeitherARedrawSourceNorAnIdleSource) {
  CountedSource redraw, idle;
  const auto look = [&] { StopIf(redraw.runs >= 10 && idle.runs >= 10); };
  redraw.on_run = idle.on_run = look;
  // A redraw is due every few milliseconds, as a frame clock has it; the idle source is always
  // ready.
  GSource* const redraw_source = AddSource(g_timeout_source_new(2), kRedrawPriority, redraw);
  GSource* const idle_source = AddSource(g_idle_source_new(), G_PRIORITY_DEFAULT_IDLE, idle);
  Flood();
  ASSERT_TRUE(runtime_->Run().ok());
  EXPECT_GE(redraw.runs, 10);
  EXPECT_GE(idle.runs, 10);
  EXPECT_GT(flooded_, 0);
  Remove(redraw_source);
  Remove(idle_source);
}

TEST_F(GlibLoopTest, SourcesThatAreAlwaysReadyDoNotStarveTheWork) {
  CountedSource redraw;
  int ran = 0;
  redraw.on_run = [] {};
  GSource* const source = AddSource(g_idle_source_new(), kRedrawPriority, redraw);
  Flood();
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(runtime_->context()
                    .RunOnRuntimeThreadAsync([&] {
                      ++ran;
                      StopIf(ran == 50);
                    })
                    .ok());
  }
  ASSERT_TRUE(runtime_->Run().ok());
  EXPECT_EQ(ran, 50);
  Remove(source);
}

TEST_F(GlibLoopTest, AMainLoopNestedInATaskRunsNoOtherTask) {
  std::vector<std::string> order;
  GMainLoop* const nested = g_main_loop_new(context_, FALSE);
  ASSERT_TRUE(runtime_->context()
                  .RunOnRuntimeThreadAsync([&] {
                    order.push_back("outer begins");
                    CountedSource quit;
                    quit.on_run = [&] {
                      if (quit.runs == 20) g_main_loop_quit(nested);
                    };
                    GSource* const source =
                        AddSource(g_idle_source_new(), G_PRIORITY_DEFAULT_IDLE, quit);
                    g_main_loop_run(nested);
                    Remove(source);
                    order.push_back("outer ends");
                  })
                  .ok());
  ASSERT_TRUE(runtime_->context()
                  .RunOnRuntimeThreadAsync([&] {
                    order.push_back("inner");
                    runtime_->Stop();
                  })
                  .ok());
  ASSERT_TRUE(runtime_->Run().ok());
  EXPECT_EQ(order, (std::vector<std::string>{"outer begins", "outer ends", "inner"}));
  g_main_loop_unref(nested);
}

TEST_F(GlibLoopTest, ANestedMainLoopInAClosureThatRunsInPlaceLosesNoWake) {
  bool ran = false;
  GMainLoop* const nested = g_main_loop_new(context_, FALSE);
  ASSERT_TRUE(runtime_->context()
                  .RunOnRuntimeThreadBlocking([&] {
                    ASSERT_TRUE(runtime_->context()
                                    .RunOnRuntimeThreadAsync([&] {
                                      ran = true;
                                      runtime_->Stop();
                                    })
                                    .ok());
                    CountedSource quit;
                    quit.on_run = [&] {
                      if (quit.runs == 20) g_main_loop_quit(nested);
                    };
                    GSource* const source =
                        AddSource(g_idle_source_new(), G_PRIORITY_DEFAULT_IDLE, quit);
                    g_main_loop_run(nested);
                    Remove(source);
                    EXPECT_FALSE(ran);
                  })
                  .ok());
  ASSERT_TRUE(runtime_->Run().ok());
  EXPECT_TRUE(ran);
  g_main_loop_unref(nested);
}

TEST_F(GlibLoopTest, NorIfWhatItWasWokenForIsCancelledBeforeTheNestedLoopEnds) {
  GMainLoop* const nested = g_main_loop_new(context_, FALSE);
  const RuntimeContext operations = runtime_->context().AsRuntimeContext();
  ASSERT_TRUE(runtime_->context()
                  .RunOnRuntimeThreadBlocking([&] {
                    const Invocation queued = operations.DispatchAsync("runloop.v1.Handles/Release",
                                                                       v1::ReleaseRequest());
                    CountedSource quit;
                    quit.on_run = [&] {
                      if (quit.runs < 20) return;
                      queued.Cancel();
                      g_main_loop_quit(nested);
                    };
                    GSource* const source =
                        AddSource(g_idle_source_new(), G_PRIORITY_DEFAULT_IDLE, quit);
                    g_main_loop_run(nested);
                    Remove(source);
                    EXPECT_TRUE(queued.done());
                  })
                  .ok());
  ASSERT_TRUE(runtime_->context().RunOnRuntimeThreadAsync([&] { runtime_->Stop(); }).ok());
  ASSERT_TRUE(runtime_->Run().ok());
  g_main_loop_unref(nested);
}

TEST_F(GlibLoopTest, ALoopThatSomebodyElseRunsDispatchesTheWork) {
  GMainLoop* const loop = g_main_loop_new(context_, FALSE);
  ASSERT_TRUE(runtime_->context().RunOnRuntimeThreadAsync([&] { g_main_loop_quit(loop); }).ok());
  g_main_loop_run(loop);
  g_main_loop_unref(loop);
}

}  // namespace
}  // namespace runloop

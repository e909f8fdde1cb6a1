#include "runloop/runtime/glib/glib_loop.h"

#include <glib.h>

#include <atomic>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "runloop/runtime/event_fd.h"

namespace runloop {
namespace {

class GlibLoop final : public RunLoop {
 public:
  explicit GlibLoop(const GlibLoopOptions& options)
      : context_(g_main_context_ref(options.context ? options.context : g_main_context_default())) {
  }

  ~GlibLoop() override {
    Detach();
    g_main_context_unref(context_);
  }

  std::string_view kind() const override { return "glib"; }

  absl::Status Attach(Work work) override {
    if (absl::Status status = wake_.status(); !status.ok()) return status;
    work_ = std::move(work);
    work_source_ = NewSource(&kWorkFuncs, "runloop work", G_PRIORITY_DEFAULT);
    wake_tag_ = g_source_add_unix_fd(work_source_, wake_.fd(), G_IO_IN);
    g_source_attach(work_source_, context_);
    // Below G_PRIORITY_LOW: dispatched only when nothing else of the context is ready.
    rest_source_ = NewSource(&kRestFuncs, "runloop rest", G_PRIORITY_LOW + 1);
    g_source_attach(rest_source_, context_);
    timer_source_ = NewSource(&kTimerFuncs, "runloop timers", G_PRIORITY_DEFAULT);
    g_source_attach(timer_source_, context_);
    return absl::OkStatus();
  }

  void Detach() override {
    for (GSource** source : {&work_source_, &rest_source_, &timer_source_}) {
      if (*source == nullptr) continue;
      g_source_destroy(*source);
      g_source_unref(*source);
      *source = nullptr;
    }
    StopWakingOn(-1);
    work_ = nullptr;
  }

  void Wake() override { wake_.Signal(); }
  absl::Status WakeOn(int fd) override {
    // A source of its own: another thread may end it while the loop looks at it.
    GSource* const source = NewSource(&kFdFuncs, "runloop descriptor", G_PRIORITY_DEFAULT);
    reinterpret_cast<Source*>(source)->tag = g_source_add_unix_fd(source, fd, G_IO_IN);
    g_source_attach(source, context_);
    fd_source_.store(source);
    return absl::OkStatus();
  }
  void StopWakingOn(int) override {
    GSource* const source = fd_source_.exchange(nullptr);
    if (source == nullptr) return;
    g_source_destroy(source);
    g_source_unref(source);
  }
  absl::Status WakeAt(absl::Time at) override {
    // GLib's time is CLOCK_MONOTONIC, too. Not before: rounded up.
    absl::MutexLock lock(&timer_mutex_);
    g_source_set_ready_time(
        timer_source_,
        at == absl::InfiniteFuture()
            ? -1
            : absl::ToInt64Microseconds(absl::Ceil(at - absl::UnixEpoch(), absl::Microseconds(1))));
    return absl::OkStatus();
  }
  bool can_run() const override { return true; }

  absl::Status Run() override {
    if (running_) return absl::FailedPreconditionError("the GLib loop runs already");
    if (!g_main_context_acquire(context_)) {
      return absl::FailedPreconditionError("another thread runs this GLib context");
    }
    running_ = true;
    g_main_context_push_thread_default(context_);
    // Not g_main_loop_quit: a Quit that comes before this line must hold as well.
    while (!quit_.exchange(false, std::memory_order_acq_rel)) {
      g_main_context_iteration(context_, TRUE);
    }
    g_main_context_pop_thread_default(context_);
    running_ = false;
    g_main_context_release(context_);
    return absl::OkStatus();
  }

  void Quit() override {
    quit_.store(true, std::memory_order_release);
    g_main_context_wakeup(context_);
  }

 private:
  struct Source {
    GSource base;
    GlibLoop* loop;
    gpointer tag;  // of a descriptor's
  };

  static GlibLoop& Of(GSource* source) { return *reinterpret_cast<Source*>(source)->loop; }

  GSource* NewSource(GSourceFuncs* funcs, const char* name, int priority) {
    GSource* source = g_source_new(funcs, sizeof(Source));
    reinterpret_cast<Source*>(source)->loop = this;
    g_source_set_name(source, name);
    g_source_set_priority(source, priority);
    return source;
  }

  // The work may run: it was left behind, and the rest after it is over.
  bool LeftAndRested() const {
    return left_ && (!resting_ || g_get_monotonic_time() >= rest_until_us_);
  }

  static gboolean PrepareWork(GSource* source, int* timeout) {
    *timeout = -1;
    return Of(source).LeftAndRested();
  }

  static gboolean CheckWork(GSource* source) {
    const GlibLoop& loop = Of(source);
    const bool woken = (g_source_query_unix_fd(source, loop.wake_tag_) & G_IO_IN) != 0;
    return (woken && !loop.resting_) || loop.LeftAndRested();
  }

  static gboolean DispatchWork(GSource* source, GSourceFunc, gpointer) {
    GlibLoop& loop = Of(source);
    loop.wake_.Clear();
    loop.resting_ = false;
    const gint64 begin = g_get_monotonic_time();
    const bool left = loop.work_ && loop.work_({});
    loop.left_ = left;
    if (left) {
      const gint64 end = g_get_monotonic_time();
      loop.resting_ = true;
      loop.rest_until_us_ = end + (end - begin);
    }
    return G_SOURCE_CONTINUE;
  }

  static gboolean PrepareFd(GSource*, int* timeout) {
    *timeout = -1;
    return FALSE;
  }

  static gboolean CheckFd(GSource* source) {
    const gpointer tag = reinterpret_cast<Source*>(source)->tag;
    return (g_source_query_unix_fd(source, tag) & G_IO_IN) != 0 && !Of(source).resting_;
  }

  static gboolean DispatchTimer(GSource* source, GSourceFunc callback, gpointer data) {
    GlibLoop& loop = Of(source);
    {
      // Unless another thread has set it anew since it was found ready.
      absl::MutexLock lock(&loop.timer_mutex_);
      if (g_source_get_ready_time(source) <= g_get_monotonic_time()) {
        g_source_set_ready_time(source, -1);
      }
    }
    // Else work is left, which comes to it once it has rested.
    return loop.resting_ ? G_SOURCE_CONTINUE : DispatchWork(source, callback, data);
  }

  static gboolean PrepareRest(GSource* source, int* timeout) {
    *timeout = -1;
    return Of(source).resting_;
  }

  static gboolean CheckRest(GSource* source) { return Of(source).resting_; }

  static gboolean DispatchRest(GSource* source, GSourceFunc, gpointer) {
    Of(source).resting_ = false;
    return G_SOURCE_CONTINUE;
  }

  static GSourceFuncs kWorkFuncs;
  static GSourceFuncs kRestFuncs;
  static GSourceFuncs kFdFuncs;
  static GSourceFuncs kTimerFuncs;

  GMainContext* const context_;
  const EventFd wake_;
  std::atomic<bool> quit_{false};
  std::atomic<GSource*> fd_source_{nullptr};
  absl::Mutex timer_mutex_;  // held while the time of timer_source_ is set

  // The thread that runs the context only.
  Work work_;
  GSource* work_source_ = nullptr;
  GSource* rest_source_ = nullptr;
  GSource* timer_source_ = nullptr;  // constant from Attach to Detach
  gpointer wake_tag_ = nullptr;
  bool left_ = false;     // the last slice left work behind
  bool resting_ = false;  // other sources come first
  gint64 rest_until_us_ = 0;
  bool running_ = false;
};

GSourceFuncs GlibLoop::kWorkFuncs = {
    .prepare = PrepareWork, .check = CheckWork, .dispatch = DispatchWork};
GSourceFuncs GlibLoop::kFdFuncs = {
    .prepare = PrepareFd, .check = CheckFd, .dispatch = DispatchWork};
// Without prepare and check: its time alone makes it ready.
GSourceFuncs GlibLoop::kTimerFuncs = {
    .prepare = nullptr, .check = nullptr, .dispatch = DispatchTimer};
GSourceFuncs GlibLoop::kRestFuncs = {
    .prepare = PrepareRest, .check = CheckRest, .dispatch = DispatchRest};

}  // namespace

std::unique_ptr<RunLoop> NewGlibLoop(const GlibLoopOptions& options) {
  return std::make_unique<GlibLoop>(options);
}

}  // namespace runloop

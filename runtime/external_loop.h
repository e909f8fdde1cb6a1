#ifndef RUNLOOP_RUNTIME_EXTERNAL_LOOP_H_
#define RUNLOOP_RUNTIME_EXTERNAL_LOOP_H_

#include <atomic>
#include <memory>

#include "absl/status/status.h"
#include "runloop/runtime/event_fd.h"
#include "runloop/runtime/run_loop.h"
#include "runloop/runtime/timer_fd.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop {

// Joins a loop that somebody else owns and runs (Qt, libuv, a game's frame loop): watch fd() for
// reading there, and call Drain on the runtime thread when it is readable, or once a frame.
//
//   auto external = std::make_unique<runloop::ExternalLoop>();
//   runloop::ExternalLoop* loop = external.get();  // valid as long as the runtime
//   auto runtime = runloop::Runtime::Create({.loop = std::move(external)});
//   uv_poll_init(uv, &poll, loop->fd());
//   uv_poll_start(&poll, UV_READABLE, [](uv_poll_t*, int, int) { loop->Drain(); });
class ExternalLoop final : public RunLoop {
 public:
  // If the kernel gives no descriptor, Attach says so.
  ExternalLoop();
  ~ExternalLoop() override;

  // Readable while work is queued or a timer is due. Any thread may watch it; it stays this
  // object's.
  int fd() const { return epoll_.get(); }

  // Runs queued work within the budget. True: work is left and fd() is still readable, so let other
  // sources have their turn and come back. The runtime thread only; a call from inside a task runs
  // nothing and returns false.
  bool Drain(const DrainBudget& budget = {});

  std::string_view kind() const override { return "external"; }
  absl::Status Attach(Work work) override;
  void Detach() override;
  void Wake() override;
  absl::Status WakeOn(int fd) override;
  void StopWakingOn(int fd) override;
  absl::Status WakeAt(absl::Time at) override;
  bool can_run() const override { return false; }
  absl::Status Run() override;
  void Quit() override;

 private:
  absl::Status Watch(int fd);

  const EventFd wake_;
  const TimerFd timer_;
  std::atomic<bool> timer_set_{false};
  const UniqueFd epoll_;  // readable while one of those in it is
  Work work_;             // the runtime thread only
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_EXTERNAL_LOOP_H_

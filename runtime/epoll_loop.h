#ifndef RUNLOOP_RUNTIME_EPOLL_LOOP_H_
#define RUNLOOP_RUNTIME_EPOLL_LOOP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "runloop/runtime/event_fd.h"
#include "runloop/runtime/run_loop.h"
#include "runloop/runtime/timer_fd.h"

namespace runloop {

// The default loop: epoll, with queued work as one source among the descriptors that the host adds.
class EpollLoop final : public RunLoop {
 public:
  // Called with the epoll events that are ready.
  using FdCallback = std::function<void(uint32_t events)>;

  // If the kernel gives no descriptors, Attach says so.
  EpollLoop();
  ~EpollLoop() override;

  // Calls `callback` on the loop's thread while `fd` is ready for `events` (EPOLLIN and the like;
  // level-triggered). The descriptor stays the caller's and must be removed before it is closed.
  // The loop's thread only.
  absl::Status AddFd(int fd, uint32_t events, FdCallback callback);
  // The callback is destroyed before this returns, or, if it is the one that runs now, when it
  // returns.
  absl::Status RemoveFd(int fd);

  std::string_view kind() const override { return "epoll"; }
  absl::Status Attach(Work work) override;
  void Detach() override;
  void Wake() override;
  absl::Status WakeOn(int fd) override;
  void StopWakingOn(int fd) override;
  absl::Status WakeAt(absl::Time at) override;
  bool can_run() const override { return true; }
  absl::Status Run() override;
  void Quit() override;

 private:
  // Constant after construction.
  const int epoll_;
  const EventFd wake_;
  const TimerFd timer_;

  std::atomic<bool> quit_{false};
  std::atomic<int> also_wakes_{-1};

  // The loop's thread only.
  Work work_;
  bool work_left_ = false;
  bool running_ = false;
  absl::flat_hash_map<int, std::shared_ptr<FdCallback>> callbacks_;
};

// An EpollLoop, for Runtime::Options.
std::unique_ptr<RunLoop> NewEpollLoop();

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_EPOLL_LOOP_H_

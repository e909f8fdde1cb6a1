#include "runloop/runtime/external_loop.h"

#include <sys/epoll.h>

#include <cerrno>
#include <utility>

namespace runloop {

ExternalLoop::ExternalLoop() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {}
ExternalLoop::~ExternalLoop() = default;

absl::Status ExternalLoop::Attach(Work work) {
  if (absl::Status status = wake_.status(); !status.ok()) return status;
  if (absl::Status status = Watch(wake_.fd()); !status.ok()) return status;
  if (absl::Status status = timer_.status(); !status.ok()) return status;
  if (absl::Status status = Watch(timer_.fd()); !status.ok()) return status;
  work_ = std::move(work);
  return absl::OkStatus();
}

void ExternalLoop::Detach() { work_ = nullptr; }

void ExternalLoop::Wake() { wake_.Signal(); }

absl::Status ExternalLoop::Watch(int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "epoll_ctl");
}

absl::Status ExternalLoop::WakeOn(int fd) { return Watch(fd); }

void ExternalLoop::StopWakingOn(int fd) { epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

absl::Status ExternalLoop::WakeAt(absl::Time at) {
  timer_set_.store(at != absl::InfiniteFuture());
  return timer_.Set(at);
}

bool ExternalLoop::Drain(const DrainBudget& budget) {
  wake_.Clear();
  if (timer_set_.load()) timer_.Clear();
  if (!work_ || !work_(budget)) return false;
  wake_.Signal();  // keeps fd() readable while work is left
  return true;
}

absl::Status ExternalLoop::Run() {
  return absl::FailedPreconditionError("an external loop is run by its owner, who calls Drain");
}

void ExternalLoop::Quit() {}

}  // namespace runloop

#include "runloop/runtime/epoll_loop.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"

namespace runloop {

absl::Status RunLoop::WakeOn(int) {
  return absl::UnimplementedError("this run loop watches no descriptors");
}

void RunLoop::StopWakingOn(int) {}

absl::Status RunLoop::WakeAt(absl::Time) {
  return absl::UnimplementedError("this run loop keeps no time");
}

EpollLoop::EpollLoop() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {}

EpollLoop::~EpollLoop() {
  if (epoll_ >= 0) close(epoll_);
}

absl::Status EpollLoop::Attach(Work work) {
  if (epoll_ < 0) return absl::ErrnoToStatus(errno, "no epoll descriptor");
  if (absl::Status status = wake_.status(); !status.ok()) return status;
  if (absl::Status status = timer_.status(); !status.ok()) return status;
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;  // each Signal is an event: the counter is never read
  for (const int fd : {wake_.fd(), timer_.fd()}) {
    event.data.fd = fd;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) {
      return absl::ErrnoToStatus(errno, "epoll_ctl");
    }
  }
  work_ = std::move(work);
  return absl::OkStatus();
}

void EpollLoop::Detach() {
  work_ = nullptr;
  work_left_ = false;
}

void EpollLoop::Wake() { wake_.Signal(); }

absl::Status EpollLoop::WakeAt(absl::Time at) { return timer_.Set(at); }

absl::Status EpollLoop::WakeOn(int fd) {
  also_wakes_.store(fd);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0) return absl::OkStatus();
  also_wakes_.store(-1);
  return absl::ErrnoToStatus(errno, "epoll_ctl");
}

void EpollLoop::StopWakingOn(int fd) {
  epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
  also_wakes_.store(-1);
}

void EpollLoop::Quit() {
  quit_.store(true, std::memory_order_release);
  wake_.Signal();
}

absl::Status EpollLoop::AddFd(int fd, uint32_t events, FdCallback callback) {
  if (callbacks_.contains(fd)) {
    return absl::AlreadyExistsError(absl::StrCat("descriptor ", fd, " is watched already"));
  }
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot watch descriptor ", fd));
  }
  callbacks_[fd] = std::make_shared<FdCallback>(std::move(callback));
  return absl::OkStatus();
}

absl::Status EpollLoop::RemoveFd(int fd) {
  if (callbacks_.erase(fd) == 0) {
    return absl::NotFoundError(absl::StrCat("descriptor ", fd, " is not watched"));
  }
  epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
  return absl::OkStatus();
}

absl::Status EpollLoop::Run() {
  if (running_) return absl::FailedPreconditionError("the epoll loop runs already");
  running_ = true;
  absl::Status result = absl::OkStatus();
  while (!quit_.exchange(false, std::memory_order_acq_rel)) {
    epoll_event events[64];
    const int ready = epoll_wait(epoll_, events, 64, work_left_ ? 0 : -1);
    if (ready < 0 && errno != EINTR) {
      result = absl::ErrnoToStatus(errno, "epoll_wait");
      break;
    }
    bool woken = work_left_;
    for (int i = 0; i < ready; ++i) {
      const int fd = events[i].data.fd;
      if (fd == wake_.fd() || fd == timer_.fd() || fd == also_wakes_.load()) {
        woken = true;
        continue;
      }
      // Looked up now: a callback before it may have removed it.
      const auto found = callbacks_.find(events[i].data.fd);
      if (found == callbacks_.end()) continue;
      const std::shared_ptr<FdCallback> callback = found->second;
      (*callback)(events[i].events);
    }
    work_left_ = woken && work_ && work_({});
  }
  running_ = false;
  return result;
}

std::unique_ptr<RunLoop> NewEpollLoop() { return std::make_unique<EpollLoop>(); }

}  // namespace runloop

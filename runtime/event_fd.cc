#include "runloop/runtime/event_fd.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace runloop {

EventFd::EventFd() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), error_(fd_ < 0 ? errno : 0) {}

EventFd::~EventFd() {
  if (fd_ >= 0) close(fd_);
}

absl::Status EventFd::status() const {
  return error_ == 0 ? absl::OkStatus()
                     : absl::ErrnoToStatus(error_, "no eventfd to wake the loop");
}

void EventFd::Signal() const {
  const int saved = errno;  // may run in a signal handler
  const uint64_t one = 1;
  // Fails only when the counter is at its end: then it is readable anyway.
  [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof one);
  errno = saved;
}

void EventFd::Clear() const {
  uint64_t count;
  [[maybe_unused]] const ssize_t got = read(fd_, &count, sizeof count);
}

}  // namespace runloop

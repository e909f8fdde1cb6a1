#ifndef RUNLOOP_RUNTIME_EVENT_FD_H_
#define RUNLOOP_RUNTIME_EVENT_FD_H_

#include "absl/status/status.h"

namespace runloop {

// An eventfd that is non-blocking and closed on exec: what wakes a loop. Safe from any thread.
class EventFd {
 public:
  // If the kernel gives no descriptor, status() says so and the other methods do nothing.
  EventFd();
  ~EventFd();
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;

  absl::Status status() const;
  // Readable from a Signal to the next Clear.
  int fd() const { return fd_; }

  // Async-signal-safe.
  void Signal() const;
  void Clear() const;

 private:
  int fd_;
  int error_;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_EVENT_FD_H_

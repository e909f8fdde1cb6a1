#ifndef RUNLOOP_CLIENT_SOCKET_WATCH_H_
#define RUNLOOP_CLIENT_SOCKET_WATCH_H_

#include <string>

#include "absl/time/time.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/runtime/event_fd.h"

namespace runloop::internal {

// Waits for a daemon's socket to come back, by inotify on its directory. While that directory is
// missing, on the nearest one above it that exists.
//
// Holds an inotify instance from Arm on (a user may have few of them, 128 as a rule), so it should
// not outlive the wait. Without one, or where the directory may not be watched, Wait still waits.
//
// Threads: one; another one ends its wait through the EventFd.
class SocketWatch {
 public:
  // `wake` must outlive it. `path` is absolute.
  SocketWatch(std::string path, const EventFd& wake);

  // Looks for the directory again, which may have been made or replaced. True if it is watched
  // anew: what happened there before was not seen.
  bool Arm();
  // True if a change will be seen.
  bool armed() const { return watch_ >= 0; }

  enum class Event {
    kTimeout,
    kWoken,    // `wake` was signalled; it is cleared
    kChanged,  // something of the socket's name came or changed, or Arm is due
  };
  // Until `deadline` of Clock::Monotonic().
  Event Wait(absl::Time deadline);

 private:
  void Disarm();
  bool ReadChanges();

  const std::string path_;
  const EventFd& wake_;
  UniqueFd inotify_;
  int watch_ = -1;
  std::string name_;  // what is waited for in the watched directory
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_SOCKET_WATCH_H_

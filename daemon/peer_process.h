#ifndef RUNLOOP_DAEMON_PEER_PROCESS_H_
#define RUNLOOP_DAEMON_PEER_PROCESS_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/runtime/epoll_loop.h"

namespace runloop::daemon {

// A pidfd of the process that connected `socket`, whose number SO_PEERCRED said is `pid`. It tells
// whether that process lives, and nothing about what it may do.
//
// The kernel names the process by the socket (SO_PEERPIDFD) since Linux 6.5. Before, it is found by
// its number, which may belong to another process by now: ask at once after accepting.
//
// NOT_FOUND: the process has ended. Not valid, and no error: it cannot be told, since the kernel
// gives no pidfds, the process is in another pid namespace (0), or no descriptor is left.
absl::StatusOr<UniqueFd> GetPeerPidfd(int socket, int32_t pid);

bool HasEnded(const UniqueFd& pidfd);

// Watches the process that opened a connection: it may end and leave the connection open, held by a
// child. The loop's thread only, or any while the loop does not run. The loop must outlive it.
class PeerProcess {
 public:
  // Has `ended` called, once, when the process has ended. Null, NOT_FOUND: see GetPeerPidfd.
  static absl::StatusOr<std::unique_ptr<PeerProcess>> Watch(EpollLoop& loop, int socket,
                                                            int32_t pid,
                                                            std::function<void()> ended);
  // `ended` is not called after this.
  ~PeerProcess();

  // For whoever wants to know for longer.
  const std::shared_ptr<const UniqueFd>& pidfd() const { return pidfd_; }

  PeerProcess(const PeerProcess&) = delete;
  PeerProcess& operator=(const PeerProcess&) = delete;

 private:
  PeerProcess(EpollLoop& loop, UniqueFd pidfd)
      : loop_(loop), pidfd_(std::make_shared<const UniqueFd>(std::move(pidfd))) {}

  EpollLoop& loop_;
  const std::shared_ptr<const UniqueFd> pidfd_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_PEER_PROCESS_H_

#include "runloop/daemon/peer_process.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace runloop::daemon {
namespace {

// Younger than the C library's headers.
#ifdef SO_PEERPIDFD
constexpr int kPeerPidfd = SO_PEERPIDFD;
#else
constexpr int kPeerPidfd = 77;
#endif

bool PidfdHasEnded(int pidfd) {
  pollfd poll_fd = {.fd = pidfd, .events = POLLIN, .revents = 0};
  return poll(&poll_fd, 1, 0) > 0;
}

}  // namespace

bool HasEnded(const UniqueFd& pidfd) { return PidfdHasEnded(pidfd.get()); }

absl::StatusOr<UniqueFd> GetPeerPidfd(int socket, int32_t pid) {
  const absl::Status ended = absl::NotFoundError("the process that connected has ended");
  int pidfd = -1;
  socklen_t size = sizeof(pidfd);
  if (getsockopt(socket, SOL_SOCKET, kPeerPidfd, &pidfd, &size) == 0) return UniqueFd(pidfd);
  // Of a process that has ended and been reaped, kernels before 6.16 say EINVAL.
  if (errno == ESRCH || errno == EINVAL) return ended;
  if (errno == EMFILE || errno == ENFILE || pid <= 0) return UniqueFd();
  pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0 && errno == ESRCH) return ended;
  return UniqueFd(pidfd);
}

absl::StatusOr<std::unique_ptr<PeerProcess>> PeerProcess::Watch(EpollLoop& loop, int socket,
                                                                int32_t pid,
                                                                std::function<void()> ended) {
  absl::StatusOr<UniqueFd> pidfd = GetPeerPidfd(socket, pid);
  if (!pidfd.ok()) return pidfd.status();
  if (!pidfd->valid()) return nullptr;
  const int fd = pidfd->get();
  std::unique_ptr<PeerProcess> process(new PeerProcess(loop, *std::move(pidfd)));
  const absl::Status added = loop.AddFd(fd, EPOLLIN, [&loop, fd, ended](uint32_t) {
    // The event may be an older one's of the same number.
    if (!PidfdHasEnded(fd)) return;
    (void)loop.RemoveFd(fd);  // it stays readable
    ended();
  });
  if (!added.ok()) return nullptr;
  return process;
}

PeerProcess::~PeerProcess() { (void)loop_.RemoveFd(pidfd_->get()); }

}  // namespace runloop::daemon

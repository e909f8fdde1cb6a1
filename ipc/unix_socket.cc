#include "runloop/ipc/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace runloop {
namespace {

constexpr int kBacklog = 1024;

absl::Status KernelError(absl::StatusCode code, const std::string& what, int error) {
  return absl::Status(code, absl::StrCat(what, ": ", std::strerror(error)));
}

absl::Status KernelError(const std::string& what, int error) {
  return KernelError(absl::ErrnoToStatusCode(error), what, error);
}

sockaddr_un SocketAddress(const Address& address) {
  sockaddr_un result = {};
  result.sun_family = AF_UNIX;
  address.path.copy(result.sun_path, sizeof(result.sun_path) - 1);
  return result;
}

absl::StatusOr<int> SocketOption(int fd, int option) {
  int value = 0;
  socklen_t size = sizeof(value);
  if (getsockopt(fd, SOL_SOCKET, option, &value, &size) != 0) {
    return KernelError(absl::StatusCode::kInvalidArgument, absl::StrCat("descriptor ", fd), errno);
  }
  return value;
}

// Room for the control message that carries descriptors, aligned as the kernel wants it.
union FdControl {
  cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(int) * kMaxFdsPerMessage)];
};

}  // namespace

absl::StatusOr<UniqueFd> ConnectUnix(const Address& address) {
  const std::string what = absl::StrCat("cannot connect to ", address.ToString());
  // Non-blocking while it connects, since a full backlog would make connect(2) wait.
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return KernelError(what, errno);
  const sockaddr_un to = SocketAddress(address);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) {
    const int error = errno;
    if (error == EAGAIN) {
      return absl::ResourceExhaustedError(absl::StrCat(what, ": its backlog is full"));
    }
    return KernelError(what, error);
  }
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0 || fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK) != 0)
    return KernelError(what, errno);
  return fd;
}

absl::StatusOr<UniqueFd> ListenUnix(const Address& address, mode_t mode) {
  const std::string what = absl::StrCat("cannot listen at ", address.ToString());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return KernelError(what, errno);
  // The file takes the mode of the socket's own inode, less the umask: so it is never wider than
  // asked, not even between bind and chmod.
  if (fchmod(fd.get(), mode) != 0) return KernelError(what, errno);
  const sockaddr_un at = SocketAddress(address);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)) != 0) {
    if (errno == EADDRINUSE) {
      return KernelError(absl::StatusCode::kAlreadyExists, what, EADDRINUSE);
    }
    return KernelError(what, errno);
  }
  if (chmod(address.path.c_str(), mode) != 0 || listen(fd.get(), kBacklog) != 0) {
    const int error = errno;
    unlink(address.path.c_str());
    return KernelError(what, error);
  }
  return fd;
}

absl::Status CheckListeningUnixSocket(int fd) {
  absl::StatusOr<int> domain = SocketOption(fd, SO_DOMAIN);
  if (!domain.ok()) return domain.status();
  absl::StatusOr<int> type = SocketOption(fd, SO_TYPE);
  if (!type.ok()) return type.status();
  absl::StatusOr<int> listens = SocketOption(fd, SO_ACCEPTCONN);
  if (!listens.ok()) return listens.status();
  if (*domain != AF_UNIX || *type != SOCK_STREAM) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", fd, " is not a unix stream socket"));
  }
  if (*listens == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", fd, " is a socket that does not listen"));
  }
  return absl::OkStatus();
}

absl::StatusOr<PeerIdentity> GetPeerIdentity(int fd) {
  ucred credentials = {};
  socklen_t size = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return KernelError("cannot tell who connected", errno);
  }
  if (credentials.pid == 0 && credentials.uid == static_cast<uid_t>(-1)) {
    return absl::FailedPreconditionError("cannot tell who connected: the socket has no peer");
  }
  PeerIdentity identity;
  identity.pid = credentials.pid;
  identity.uid = credentials.uid;
  identity.gid = credentials.gid;
  return identity;
}

absl::StatusOr<SocketIo> SendWithFds(int socket, std::string_view bytes,
                                     absl::Span<const int> fds) {
  if (bytes.empty()) return absl::InvalidArgumentError("descriptors need a byte to ride with");
  if (fds.size() > kMaxFdsPerMessage) {
    return absl::InvalidArgumentError(
        absl::StrCat(fds.size(), " descriptors in one message; at most ", kMaxFdsPerMessage));
  }
  iovec data = {const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  FdControl control = {};
  if (!fds.empty()) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return SocketIo{.bytes = static_cast<size_t>(sent)};
  if (errno == EAGAIN || errno == EWOULDBLOCK) return SocketIo{.would_block = true};
  if (errno == EPIPE || errno == ECONNRESET) {
    return KernelError(absl::StatusCode::kUnavailable, "cannot send", errno);
  }
  return KernelError("cannot send", errno);
}

absl::StatusOr<SocketIo> ReceiveWithFds(int socket, absl::Span<char> buffer,
                                        std::vector<UniqueFd>& fds) {
  iovec data = {buffer.data(), buffer.size()};
  FdControl control = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof(control.bytes);
  ssize_t received;
  do {
    received = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return SocketIo{.would_block = true};
    if (errno == ECONNRESET) {
      return KernelError(absl::StatusCode::kUnavailable, "cannot receive", errno);
    }
    return KernelError("cannot receive", errno);
  }
  // Closing a socket may wait for as long as its sender has set.
  const linger none{};
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
      (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));  // no socket: ENOTSOCK
    }
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0) {
    return absl::InvalidArgumentError(
        "the peer sent more descriptors at once than are taken, or "
        "this process may open no more");
  }
  return SocketIo{.bytes = static_cast<size_t>(received), .end = received == 0 && !buffer.empty()};
}

}  // namespace runloop

#ifndef RUNLOOP_DAEMON_LISTENING_SOCKET_H_
#define RUNLOOP_DAEMON_LISTENING_SOCKET_H_

#include <sys/types.h>

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "runloop/ipc/address.h"
#include "runloop/ipc/unix_socket.h"

namespace runloop::daemon {

// A main socket of the daemon: one that it made, with the lock that makes it the only daemon there,
// or one that it was given. Movable; not thread-safe. Destruction closes it and, if it made the
// file and the file is still its own, removes it.
//
// What is distrusted: everything that was in the file system before. A directory that others can
// write is refused, since they could put another socket in the place of ours; a file that is no
// socket is left alone.
class ListeningSocket {
 public:
  // Makes missing directories (mode 0700) and the socket (mode 0600), and replaces a socket that
  // nobody listens on. Of several processes that do this at the same moment, one succeeds.
  //
  // ALREADY_EXISTS: a daemon listens there, or a file that is no socket has the name.
  // PERMISSION_DENIED: the directory belongs to somebody else, others can write it, or the kernel
  // refuses.
  static absl::StatusOr<ListeningSocket> Listen(const Address& address);

  // Takes over a listening unix socket, made non-blocking; INVALID_ARGUMENT, and `fd` is closed,
  // if it is none. Its file is never removed.
  static absl::StatusOr<ListeningSocket> Adopt(int fd);

  ListeningSocket(ListeningSocket&& other) noexcept;
  ListeningSocket& operator=(ListeningSocket&&) = delete;
  ~ListeningSocket();

  int fd() const { return socket_.get(); }
  // `unix:/path`, or `fd:N` for a socket without a path.
  const std::string& name() const { return name_; }
  // Nothing for a socket without a path.
  const std::optional<Address>& address() const { return address_; }

 private:
  ListeningSocket() = default;

  UniqueFd lock_;  // holds the lock while open; invalid if adopted
  UniqueFd socket_;
  std::string name_;
  std::optional<Address> address_;
  dev_t device_ = 0;  // of the file that we made
  ino_t inode_ = 0;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_LISTENING_SOCKET_H_

#ifndef RUNLOOP_IPC_UNIX_SOCKET_H_
#define RUNLOOP_IPC_UNIX_SOCKET_H_

#include <sys/types.h>

#include <cstddef>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runloop/ipc/address.h"
#include "runloop/runtime/session.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop {

// Connects to the socket at `address`; never waits. The descriptor blocks unless it is told
// otherwise and is closed on exec.
//
// The message names the address and the kernel's error. NOT_FOUND: no such file. UNAVAILABLE:
// nobody listens there. RESOURCE_EXHAUSTED: the listener's backlog is full. PERMISSION_DENIED: not
// ours to use. Others as the kernel says.
absl::StatusOr<UniqueFd> ConnectUnix(const Address& address);

// Makes the file and listens on it, with the given mode from the first moment. The descriptor does
// not block.
//
// ALREADY_EXISTS: there is a file of that name, whoever may listen there. NOT_FOUND: no such
// directory. PERMISSION_DENIED: the directory is not ours to write.
absl::StatusOr<UniqueFd> ListenUnix(const Address& address, mode_t mode = 0600);

// INVALID_ARGUMENT unless `fd` is a unix stream socket that listens: for descriptors that come from
// elsewhere.
absl::Status CheckListeningUnixSocket(int fd);

// Who connected, as the kernel recorded it at connect(2); `role` stays empty, the caller knows by
// which socket the peer came. For a socketpair it is who made the pair.
absl::StatusOr<PeerIdentity> GetPeerIdentity(int fd);

// What one send or receive moved.
struct SocketIo {
  size_t bytes = 0;
  bool would_block = false;  // nothing was moved: wait until the socket is ready
  bool end = false;          // receiving: the peer has closed and everything was read
};

// The most descriptors that travel in one message here.
inline constexpr size_t kMaxFdsPerMessage = 16;

// Sends a prefix of `bytes`, which are not empty, and `fds` with the first of them. Never waits and
// never raises SIGPIPE. If `SocketIo::bytes` is not 0 the descriptors are on their way, and the
// rest is sent without them. The descriptors stay the caller's.
absl::StatusOr<SocketIo> SendWithFds(int socket, std::string_view bytes, absl::Span<const int> fds);

// Receives into `buffer` and appends to `fds` the descriptors that came along, closed on exec.
// Never waits. INVALID_ARGUMENT: more than kMaxFdsPerMessage came at once, or more than this
// process may open; those that arrived are in `fds`, since closing them may take long, and the
// bytes are lost.
absl::StatusOr<SocketIo> ReceiveWithFds(int socket, absl::Span<char> buffer,
                                        std::vector<UniqueFd>& fds);

}  // namespace runloop

#endif  // RUNLOOP_IPC_UNIX_SOCKET_H_

#ifndef RUNLOOP_IPC_ADDRESS_H_
#define RUNLOOP_IPC_ADDRESS_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace runloop {

// Where a daemon listens: a unix socket's path. Written `unix:/path` or `/path`; a path that is not
// absolute is taken from the working directory.
struct Address {
  std::string path;  // absolute

  // `unix:/path`.
  std::string ToString() const { return "unix:" + path; }
  bool operator==(const Address&) const = default;
};

// INVALID_ARGUMENT: another scheme, an empty path, or one longer than sockaddr_un holds (107
// bytes).
absl::StatusOr<Address> ParseAddress(std::string_view text);

// What RUNLOOP_ADDRESS says, or else the default socket: `/run/runloop/runloopd.sock` as root,
// `$XDG_RUNTIME_DIR/runloop/runloopd.sock` as another user; FAILED_PRECONDITION if that variable is
// not set.
absl::StatusOr<Address> DefaultAddress();

}  // namespace runloop

#endif  // RUNLOOP_IPC_ADDRESS_H_

#ifndef RUNLOOP_CLIENT_CLI_ROLE_SOCKET_H_
#define RUNLOOP_CLIENT_CLI_ROLE_SOCKET_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runloop/ipc/address.h"
#include "runloop/ipc/side_channel_frame.h"
#include "runloop/ipc/unix_socket.h"

namespace runloop::cli {

// A listening socket `runloopd.sock` in a fresh directory that only this user may enter.
// Destruction
// removes both; what a killed process left, the next Create removes.
class RoleSocket {
 public:
  // Makes the directory in /run/runloop as root, else in $XDG_RUNTIME_DIR/runloop, or where that is
  // not set in /tmp.
  static absl::StatusOr<std::unique_ptr<RoleSocket>> Create();
  ~RoleSocket();
  RoleSocket(const RoleSocket&) = delete;
  RoleSocket& operator=(const RoleSocket&) = delete;

  const std::string& directory() const { return directory_; }
  const Address& address() const { return address_; }
  int fd() const { return listening_.get(); }

 private:
  RoleSocket(std::string directory, Address address)
      : directory_(std::move(directory)), address_(std::move(address)) {}

  const std::string directory_;
  const Address address_;
  UniqueFd lock_;  // on the directory: shows others that it is in use
  UniqueFd listening_;
};

// A side channel that asks the daemon to accept on a role socket, which it does until the channel
// ends. Never waits: the owner polls fd() for reading.
class RoleRegistration {
 public:
  // Connects and asks.
  static absl::StatusOr<std::unique_ptr<RoleRegistration>> Begin(const Address& daemon,
                                                                 const std::string& role,
                                                                 int listening_fd);

  int fd() const { return socket_.get(); }
  // The daemon has said yes.
  bool accepted() const { return accepted_; }

  // Reads what has come. An error: the daemon refuses (it keeps its code), or is gone
  // (UNAVAILABLE); the registration is then of no more use.
  absl::Status OnReadable();

 private:
  explicit RoleRegistration(UniqueFd socket) : socket_(std::move(socket)) {}

  const UniqueFd socket_;
  SideChannelDecoder decoder_;
  bool accepted_ = false;
};

}  // namespace runloop::cli

#endif  // RUNLOOP_CLIENT_CLI_ROLE_SOCKET_H_

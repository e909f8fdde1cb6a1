#ifndef RUNLOOP_CLIENT_DAEMON_CHANNEL_H_
#define RUNLOOP_CLIENT_DAEMON_CHANNEL_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "runloop/ipc/address.h"
#include "runloop/ipc/unix_socket.h"

namespace runloop::internal {

// Connects to a daemon's socket; never waits. The errors are one line for people and say what to
// do.
//
// UNAVAILABLE (NOT_CONNECTED): nothing listens there, or it is too busy to accept.
// PERMISSION_DENIED (NOT_ALLOWED): the socket is somebody else's.
absl::StatusOr<UniqueFd> ConnectToDaemon(const Address& address);

// A gRPC channel over one new connection. It does not reconnect: when the connection is gone, calls
// fail with UNAVAILABLE for ever. Messages of any size are received.
struct DaemonChannel {
  std::shared_ptr<grpc::Channel> channel;
  UniqueFd socket;  // the connection's, to be looked at only; keeps it open
};
absl::StatusOr<DaemonChannel> OpenDaemonChannel(const Address& address);

// UNAVAILABLE with the reason NOT_CONNECTED.
absl::Status NotConnected(const std::string& message);
// The same, for one that accepts and says nothing.
absl::Status NoAnswer(const Address& address);

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_DAEMON_CHANNEL_H_

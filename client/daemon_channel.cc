#include "runloop/client/daemon_channel.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel_posix.h"
#include "grpcpp/support/channel_arguments.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

bool IsNoSocket(const Address& address) {
  struct stat file;
  return stat(address.path.c_str(), &file) == 0 && !S_ISSOCK(file.st_mode);
}

}  // namespace

absl::Status NotConnected(const std::string& message) {
  return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_NOT_CONNECTED, message);
}

absl::Status NoAnswer(const Address& address) {
  return NotConnected(absl::StrCat("the daemon at ", address.ToString(), " does not answer"));
}

absl::StatusOr<UniqueFd> ConnectToDaemon(const Address& address) {
  absl::StatusOr<UniqueFd> fd = ConnectUnix(address);
  switch (fd.status().code()) {
    case absl::StatusCode::kOk:
      return fd;
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnavailable:
      if (IsNoSocket(address)) {
        return NotConnected(
            absl::StrCat(address.ToString(), " is no socket: set RUNLOOP_ADDRESS to a daemon's"));
      }
      return NotConnected(absl::StrCat("no daemon listens at ", address.ToString(),
                                       ": start runloopd, or set RUNLOOP_ADDRESS"));
    case absl::StatusCode::kResourceExhausted:
      return NotConnected(absl::StrCat("the daemon at ", address.ToString(),
                                       " is too busy to accept connections: try again"));
    case absl::StatusCode::kPermissionDenied:
      return MakeError(absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_ALLOWED,
                       absl::StrCat("the socket ", address.ToString(),
                                    " is somebody else's: run as the daemon's user, or set "
                                    "RUNLOOP_ADDRESS to a daemon of your own"));
    default:
      return fd.status();
  }
}

absl::StatusOr<DaemonChannel> OpenDaemonChannel(const Address& address) {
  absl::StatusOr<UniqueFd> fd = ConnectToDaemon(address);
  if (!fd.ok()) return fd.status();
  UniqueFd socket(fcntl(fd->get(), F_DUPFD_CLOEXEC, 0));
  if (!socket.valid()) return absl::ErrnoToStatus(errno, "dup of the connection");
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  return DaemonChannel{
      .channel = grpc::CreateCustomInsecureChannelFromFd("runloop", fd->Release(), arguments),
      .socket = std::move(socket)};
}

}  // namespace runloop::internal

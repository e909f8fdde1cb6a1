#include "runloop/client/cli/role_socket.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runloop/client/daemon_channel.h"
#include "runloop/runtime/error.h"
#include "runloop/v1/side_channel.pb.h"

namespace runloop::cli {
namespace {

// Makes sure that `path` is a directory that only this user can put things into.
absl::Status EnsureOwnDirectory(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make the directory ", path));
  }
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", path));
  }
  if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 022) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat(path, " is not a directory that only its owner, this user, may write"));
  }
  return absl::OkStatus();
}

constexpr char kSocketName[] = "runloopd.sock";
// A directory this young may not have its owner's lock yet.
constexpr time_t kYoungSeconds = 10;

UniqueFd OpenDirectory(const std::string& path) {
  return UniqueFd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

// Removes what runs that were killed have left in `parent`: directories that nobody holds the lock
// of.
void RemoveLeftovers(const std::string& parent) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(parent, error)) {
    if (!entry.path().filename().string().starts_with("run-")) continue;
    const UniqueFd directory = OpenDirectory(entry.path().string());
    struct stat info;
    if (!directory.valid() || flock(directory.get(), LOCK_EX | LOCK_NB) != 0 ||
        fstat(directory.get(), &info) != 0 || info.st_mtime + kYoungSeconds > time(nullptr)) {
      continue;
    }
    unlinkat(directory.get(), kSocketName, 0);
    rmdir(entry.path().c_str());
  }
}

absl::StatusOr<std::string> DirectoryPattern() {
  std::string parent = "/run/runloop";
  if (geteuid() != 0) {
    const char* runtime_directory = std::getenv("XDG_RUNTIME_DIR");
    if (runtime_directory == nullptr || *runtime_directory == '\0') {
      return std::string("/tmp/runloop-XXXXXX");
    }
    parent = absl::StrCat(runtime_directory, "/runloop");
  }
  if (absl::Status status = EnsureOwnDirectory(parent); !status.ok()) return status;
  RemoveLeftovers(parent);
  return absl::StrCat(parent, "/run-XXXXXX");
}

}  // namespace

absl::StatusOr<std::unique_ptr<RoleSocket>> RoleSocket::Create() {
  absl::StatusOr<std::string> directory = DirectoryPattern();
  if (!directory.ok()) return directory.status();
  if (mkdtemp(directory->data()) == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make a directory ", *directory));
  }
  absl::StatusOr<Address> address = ParseAddress(absl::StrCat(*directory, "/", kSocketName));
  if (!address.ok()) {
    rmdir(directory->c_str());
    return address.status();
  }
  std::unique_ptr<RoleSocket> socket(new RoleSocket(*std::move(directory), *std::move(address)));
  socket->lock_ = OpenDirectory(socket->directory());
  // Waits: another run may be looking if this directory is a leftover, which it is too young for.
  while (flock(socket->lock_.get(), LOCK_EX) != 0) {
    if (errno != EINTR) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot lock ", socket->directory()));
    }
  }
  absl::StatusOr<UniqueFd> listening = ListenUnix(socket->address(), 0600);
  if (!listening.ok()) return listening.status();
  socket->listening_ = *std::move(listening);
  return socket;
}

RoleSocket::~RoleSocket() {
  unlink(address_.path.c_str());
  rmdir(directory_.c_str());
}

absl::StatusOr<std::unique_ptr<RoleRegistration>> RoleRegistration::Begin(const Address& daemon,
                                                                          const std::string& role,
                                                                          int listening_fd) {
  v1::SideChannelRequest request;
  request.mutable_add_role_socket()->set_role(role);
  absl::StatusOr<std::string> frame = EncodeSideChannelFrame(request);
  if (!frame.ok()) return frame.status();
  absl::StatusOr<UniqueFd> socket = internal::ConnectToDaemon(daemon);
  if (!socket.ok()) return socket.status();
  // So little goes into a new socket at once or not at all.
  absl::StatusOr<SocketIo> io = SendWithFds(socket->get(), std::string_view(kSideChannelMagic), {});
  if (io.ok() && io->bytes == kSideChannelMagic.size()) {
    io = SendWithFds(socket->get(), *frame, {listening_fd});
    if (io.ok() && io->bytes == frame->size()) {
      return std::unique_ptr<RoleRegistration>(new RoleRegistration(*std::move(socket)));
    }
  }
  return internal::NotConnected(
      absl::StrCat("the daemon at ", daemon.ToString(),
                   " closed the connection: it is ending, or it serves only "
                   "processes of its own user"));
}

absl::Status RoleRegistration::OnReadable() {
  char buffer[4096];
  while (true) {
    std::vector<UniqueFd> unexpected;
    absl::StatusOr<SocketIo> io = ReceiveWithFds(fd(), absl::MakeSpan(buffer), unexpected);
    if (absl::IsUnavailable(io.status()) || (io.ok() && io->end)) {
      return internal::NotConnected(
          "the daemon closed the side channel: it is ending, or it serves only processes of its "
          "own "
          "user");
    }
    if (!io.ok()) return io.status();
    if (io->would_block) return absl::OkStatus();
    decoder_.Append(std::string_view(buffer, io->bytes));
    absl::StatusOr<std::optional<std::string>> bytes = decoder_.Next();
    if (!bytes.ok()) return bytes.status();
    if (!bytes->has_value()) continue;
    v1::SideChannelResponse response;
    if (accepted_ || !response.ParseFromString(**bytes)) {
      return absl::InvalidArgumentError(
          "what listens at the daemon's socket is not a runloop daemon");
    }
    if (absl::Status status = FromProto(response.status()); !status.ok()) return status;
    accepted_ = true;
  }
}

}  // namespace runloop::cli

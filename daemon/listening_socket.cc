#include "runloop/daemon/listening_socket.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace runloop::daemon {
namespace {

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status MakeDirectories(const std::string& directory) {
  struct stat info;
  if (stat(directory.c_str(), &info) == 0) return absl::OkStatus();
  if (directory != "/") {
    if (absl::Status made = MakeDirectories(DirectoryOf(directory)); !made.ok()) return made;
  }
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make the directory ", directory));
  }
  return absl::OkStatus();
}

absl::Status CheckDirectory(const std::string& directory) {
  struct stat info;
  if (stat(directory.c_str(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot use the directory ", directory));
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(directory, " is no directory"));
  }
  if (info.st_uid != geteuid() && info.st_uid != 0) {
    return absl::PermissionDeniedError(absl::StrCat("the directory ", directory,
                                                    " belongs to user ", info.st_uid,
                                                    ": choose one of your own with --listen"));
  }
  if ((info.st_mode & 022) != 0) {
    return absl::PermissionDeniedError(absl::StrFormat(
        "others can write the directory %s (mode %04o): choose one of mode 0700 with --listen",
        directory, info.st_mode & 07777));
  }
  return absl::OkStatus();
}

absl::Status AlreadyListening(const Address& address) {
  if (access(address.path.c_str(), F_OK) != 0 && errno == ENOENT) {
    return absl::AlreadyExistsError(
        absl::StrCat("a daemon listens at ", address.ToString(),
                     ", but that file has been removed, and nobody can reach it: `fuser ",
                     address.path, ".lock` says which process it is; end it"));
  }
  return absl::AlreadyExistsError(absl::StrCat("a daemon already listens at ", address.ToString(),
                                               ": stop it, or choose another --listen"));
}

// The lock is a file beside the socket, locked as long as it is open. Whoever ends removes it, so
// a lock counts only if the file still has its name when it is ours.
absl::StatusOr<UniqueFd> TakeLock(const Address& address) {
  const std::string path = address.path + ".lock";
  for (;;) {
    UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
    while (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return AlreadyListening(address);
      if (errno != EINTR) return absl::ErrnoToStatus(errno, absl::StrCat("cannot lock ", path));
    }
    struct stat ours, named;
    if (fstat(fd.get(), &ours) == 0 && stat(path.c_str(), &named) == 0 &&
        ours.st_dev == named.st_dev && ours.st_ino == named.st_ino) {
      return fd;
    }
  }
}

// With the lock held: removes a socket that nobody listens on.
absl::Status RemoveStale(const Address& address) {
  struct stat info;
  if (lstat(address.path.c_str(), &info) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", address.path));
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::AlreadyExistsError(absl::StrCat(
        address.path, " exists and is no socket: remove it, or choose another --listen"));
  }
  // A full backlog (EAGAIN) means that somebody listens; only a refused connection means 'stale'.
  UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.valid()) return absl::ErrnoToStatus(errno, "no socket");
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  memcpy(name.sun_path, address.path.c_str(), address.path.size() + 1);
  if (connect(probe.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)) == 0 ||
      errno == EAGAIN) {
    return AlreadyListening(address);
  }
  if (errno != ECONNREFUSED && errno != ENOENT) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("cannot tell whether somebody listens at ", address.ToString()));
  }
  if (unlink(address.path.c_str()) != 0 && errno != ENOENT) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot remove ", address.path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ListeningSocket> ListeningSocket::Listen(const Address& address) {
  const std::string directory = DirectoryOf(address.path);
  if (absl::Status made = MakeDirectories(directory); !made.ok()) return made;
  if (absl::Status ours = CheckDirectory(directory); !ours.ok()) return ours;
  absl::StatusOr<UniqueFd> lock = TakeLock(address);
  if (!lock.ok()) return lock.status();

  ListeningSocket result;
  result.lock_ = *std::move(lock);
  result.address_ = address;
  result.name_ = address.ToString();
  if (absl::Status removed = RemoveStale(address); !removed.ok()) return removed;
  absl::StatusOr<UniqueFd> listening = ListenUnix(address, 0600);
  if (!listening.ok()) return listening.status();
  result.socket_ = *std::move(listening);
  struct stat info;
  if (lstat(address.path.c_str(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", address.path));
  }
  result.device_ = info.st_dev;
  result.inode_ = info.st_ino;
  return result;
}

absl::StatusOr<ListeningSocket> ListeningSocket::Adopt(int fd) {
  ListeningSocket result;
  result.socket_.Reset(fd);
  if (absl::Status checked = CheckListeningUnixSocket(fd); !checked.ok()) return checked;
  if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot use descriptor ", fd));
  }
  sockaddr_un name{};
  socklen_t size = sizeof(name);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) == 0 &&
      size > offsetof(sockaddr_un, sun_path) && name.sun_path[0] != '\0') {
    const size_t room = size - offsetof(sockaddr_un, sun_path);
    result.address_ = Address{.path = std::string(name.sun_path, strnlen(name.sun_path, room))};
    result.name_ = result.address_->ToString();
  } else {
    result.name_ = absl::StrCat("fd:", fd);
  }
  return result;
}

ListeningSocket::ListeningSocket(ListeningSocket&& other) noexcept = default;

ListeningSocket::~ListeningSocket() {
  if (!lock_.valid()) return;  // adopted, or moved from
  struct stat info;
  if (inode_ != 0 && lstat(address_->path.c_str(), &info) == 0 && info.st_dev == device_ &&
      info.st_ino == inode_) {
    unlink(address_->path.c_str());
  }
  // The lock is held until its file has gone: see TakeLock.
  unlink((address_->path + ".lock").c_str());
}

}  // namespace runloop::daemon

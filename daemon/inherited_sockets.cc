#include "runloop/daemon/inherited_sockets.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace runloop::daemon {
namespace {

constexpr int kFirstFd = 3;
constexpr int kMaxFds = 64;

std::optional<std::string> TakeVariable(const char* name) {
  const char* value = getenv(name);
  if (value == nullptr) return std::nullopt;
  std::string taken = value;
  unsetenv(name);
  return taken;
}

}  // namespace

absl::StatusOr<std::vector<int>> TakeInheritedSockets() {
  const std::optional<std::string> pid = TakeVariable("LISTEN_PID");
  const std::optional<std::string> count = TakeVariable("LISTEN_FDS");
  const std::optional<std::string> names = TakeVariable("LISTEN_FDNAMES");
  std::vector<int> fds;
  if (!pid || !count) return fds;

  int expected_pid = 0;
  if (!absl::SimpleAtoi(*pid, &expected_pid) || expected_pid <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("LISTEN_PID is no process id: '", *pid, "'"));
  }
  if (expected_pid != getpid()) return fds;  // meant for another process

  int expected = 0;
  if (!absl::SimpleAtoi(*count, &expected) || expected < 0 || expected > kMaxFds) {
    return absl::InvalidArgumentError(
        absl::StrCat("LISTEN_FDS is no number from 0 to ", kMaxFds, ": '", *count, "'"));
  }
  if (names) {
    const size_t named = std::vector<std::string>(absl::StrSplit(*names, ':')).size();
    if (expected > 0 && named != static_cast<size_t>(expected)) {
      return absl::InvalidArgumentError(
          absl::StrCat("LISTEN_FDS says ", expected, " sockets, LISTEN_FDNAMES names ", named));
    }
  }
  for (int fd = kFirstFd; fd < kFirstFd + expected; ++fd) {
    const int flags = fcntl(fd, F_GETFD);
    if (flags < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "LISTEN_FDS says ", expected, " sockets, but descriptor ", fd, " is not open"));
    }
    fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
    fds.push_back(fd);
  }
  return fds;
}

}  // namespace runloop::daemon

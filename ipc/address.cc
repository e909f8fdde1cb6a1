#include "runloop/ipc/address.h"

#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace runloop {
namespace {

constexpr std::string_view kScheme = "unix:";
constexpr size_t kMaxPath = sizeof(sockaddr_un::sun_path) - 1;

absl::Status Invalid(std::string_view text, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "'", std::string(text), "' is not an address: ", why, "; write unix:/path/to/socket"));
}

}  // namespace

absl::StatusOr<Address> ParseAddress(std::string_view text) {
  std::string_view path = text;
  if (path.starts_with(kScheme)) {
    path.remove_prefix(kScheme.size());
  } else {
    const size_t colon = text.find(':');
    if (colon != text.npos && text.substr(0, colon).find('/') == text.npos) {
      return Invalid(text, "only unix sockets are served");
    }
  }
  if (path.empty()) return Invalid(text, "it has no path");
  if (path.find('\0') != path.npos) return Invalid(text.substr(0, text.find('\0')), "it holds NUL");

  std::error_code error;
  std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error) return Invalid(text, absl::StrCat("no working directory (", error.message(), ")"));
  std::string normal = absolute.lexically_normal().string();
  // A leading double slash is implementation-defined, and the same as one on every system that we
  // run on.
  if (normal.starts_with("//")) normal.erase(0, 1);
  if (normal.ends_with("/")) return Invalid(text, "it names a directory");
  if (normal.size() > kMaxPath) {
    return Invalid(text, absl::StrCat("the path has ", normal.size(),
                                      " bytes and a socket's at most ", kMaxPath));
  }
  return Address{std::move(normal)};
}

absl::StatusOr<Address> DefaultAddress() {
  if (const char* address = std::getenv("RUNLOOP_ADDRESS");
      address != nullptr && *address != '\0') {
    return ParseAddress(address);
  }
  if (geteuid() == 0) return ParseAddress("/run/runloop/runloopd.sock");
  const char* directory = std::getenv("XDG_RUNTIME_DIR");
  if (directory == nullptr || *directory == '\0') {
    return absl::FailedPreconditionError(
        "no default socket, since XDG_RUNTIME_DIR is not set: set RUNLOOP_ADDRESS to the daemon's "
        "socket");
  }
  return ParseAddress(absl::StrCat(directory, "/runloop/runloopd.sock"));
}

}  // namespace runloop

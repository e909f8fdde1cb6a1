#include "runloop/tests/testing/cut_connections.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

namespace runloop {
namespace {

bool IsConnectedTo(int fd, const std::string& path) {
  sockaddr_un peer{};
  socklen_t size = sizeof(peer);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return false;
  return peer.sun_family == AF_UNIX && size > offsetof(sockaddr_un, sun_path) &&
         path == peer.sun_path;
}

}  // namespace

int CutConnections(const std::string& path, int only) {
  std::vector<int> connected;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error)) {
    const int fd = std::atoi(entry.path().filename().c_str());
    if (IsConnectedTo(fd, path)) connected.push_back(fd);
  }
  if (only >= 0 && !connected.empty()) {
    connected = {connected[static_cast<size_t>(only) % connected.size()]};
  }
  for (const int fd : connected) (void)shutdown(fd, SHUT_RDWR);
  return static_cast<int>(connected.size());
}

}  // namespace runloop

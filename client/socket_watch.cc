#include "runloop/client/socket_watch.h"

#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/time/time.h"
#include "runloop/runtime/clock.h"

namespace runloop::internal {
namespace {

constexpr uint32_t kAppeared = IN_CREATE | IN_MOVED_TO | IN_ATTRIB;
constexpr uint32_t kDirectoryGone =
    IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED | IN_Q_OVERFLOW;
// Directories may come and go while they are looked for.
constexpr int kMostLooks = 8;

}  // namespace

SocketWatch::SocketWatch(std::string path, const EventFd& wake)
    : path_(std::move(path)), wake_(wake) {}

bool SocketWatch::Arm() {
  if (!inotify_.valid()) inotify_.Reset(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify_.valid()) return false;
  const int before = watch_;
  const std::string name_before = name_;
  for (int look = 0; look < kMostLooks; ++look) {
    std::filesystem::path directory = std::filesystem::path(path_).parent_path();
    std::filesystem::path wanted = path_;
    int found;
    while ((found = inotify_add_watch(inotify_.get(), directory.c_str(),
                                      kAppeared | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)) <
               0 &&
           (errno == ENOENT || errno == ENOTDIR) && directory.has_relative_path()) {
      wanted = directory;
      directory = directory.parent_path();
    }
    if (found != watch_) Disarm();
    watch_ = found;
    name_ = wanted.filename();
    if (found < 0) return false;
    // What was missing may have come before it was watched for.
    std::error_code error;
    if (wanted == path_ || !std::filesystem::is_directory(wanted, error)) break;
  }
  return watch_ != before || name_ != name_before;
}

void SocketWatch::Disarm() {
  if (watch_ >= 0) inotify_rm_watch(inotify_.get(), watch_);
  watch_ = -1;
}

SocketWatch::Event SocketWatch::Wait(absl::Time deadline) {
  // poll ignores descriptors below 0.
  std::array<pollfd, 2> fds = {pollfd{.fd = wake_.fd(), .events = POLLIN},
                               pollfd{.fd = inotify_.get(), .events = POLLIN}};
  while (true) {
    const absl::Duration left =
        std::max(deadline - Clock::Monotonic()->Now(), absl::ZeroDuration());
    const timespec timeout = absl::ToTimespec(left);
    const int ready = ppoll(fds.data(), fds.size(),
                            left == absl::InfiniteDuration() ? nullptr : &timeout, nullptr);
    if (ready == 0) return Event::kTimeout;
    if (ready < 0) continue;  // EINTR
    if (fds[0].revents != 0) {
      wake_.Clear();
      return Event::kWoken;
    }
    if (ReadChanges()) return Event::kChanged;
  }
}

bool SocketWatch::ReadChanges() {
  alignas(inotify_event) std::array<char, 4096> buffer;
  const ssize_t got = read(inotify_.get(), buffer.data(), buffer.size());
  if (got <= 0) return false;
  bool changed = false;
  for (ssize_t at = 0; at < got;) {
    inotify_event event;
    std::memcpy(&event, buffer.data() + at, sizeof event);
    const char* name = event.len == 0 ? "" : buffer.data() + at + sizeof event;
    at += static_cast<ssize_t>(sizeof event + event.len);
    if ((event.mask & IN_Q_OVERFLOW) != 0) {
      changed = true;
    } else if (event.wd == watch_) {
      // Without a name it is the directory itself.
      changed |= (event.mask & kDirectoryGone) != 0 ||
                 ((event.mask & kAppeared) != 0 && (*name == '\0' || name == name_));
    }
  }
  return changed;
}

}  // namespace runloop::internal

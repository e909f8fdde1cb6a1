#include "runloop/runtime/log.h"

#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/strings.h"

namespace runloop {

LogSink StderrLog() {
  return [](LogSeverity severity, std::string_view line) {
    constexpr char kLetters[] = {'I', 'W', 'E'};
    const std::string text =
        absl::StrCat(absl::string_view(&kLetters[static_cast<int>(severity)], 1),
                     " runloop: ", View(line), "\n");
    // A reader that is stuck must not hold up the threads that log: after a moment the line is
    // dropped. Up to PIPE_BUF bytes are written whole or not at all once there is room.
    pollfd ready{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    if (poll(&ready, 1, 100) != 1) return;
    [[maybe_unused]] const ssize_t written =
        write(STDERR_FILENO, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
  };
}

}  // namespace runloop

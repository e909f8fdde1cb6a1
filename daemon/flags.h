#ifndef RUNLOOP_DAEMON_FLAGS_H_
#define RUNLOOP_DAEMON_FLAGS_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "runloop/runtime/bounds.h"
#include "runloop/runtime/priority.h"

namespace runloop::daemon {

// runloopd's command line; --help describes it.
struct Flags {
  std::string listen;
  std::vector<std::string> plugins;
  bool glib = false;
  int64_t max_message_bytes = 0;
  int64_t ring_bytes = 0;
  absl::Duration resume_grace;
  Priority role_priority = Priority::kDefault;
  absl::Duration drain_timeout;
  absl::Duration close_timeout;
  absl::Duration slow_queue_wait;
  absl::Duration slow_execution;
  WorkBounds bounds;
  BufferBounds buffer_bounds;
  size_t max_handles = 0;
  // Not for people: probe these instead of serving (plugin_loader.h).
  std::vector<std::string> probe_plugins;
};

// Either what was asked for, or the code to exit with: help or the version was printed (0), or what
// is wrong, in one line (2).
std::variant<Flags, int> ParseFlags(int argc, char** argv);

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_FLAGS_H_

#include "runloop/daemon/run_daemon.h"

#include <malloc.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdio>
#include <string>
#include <utility>

#include "absl/strings/str_join.h"
#include "runloop/daemon/host.h"
#include "runloop/daemon/inherited_sockets.h"
#include "runloop/daemon/plugin_loader.h"
#include "runloop/ipc/address.h"
#include "runloop/runtime/epoll_loop.h"
#include "runloop/runtime/glib/glib_loop.h"
#include "runloop/runtime/runtime.h"

namespace runloop::daemon {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

int Fail(int code, const absl::Status& status) {
  fprintf(stderr, "runloopd: %s\n", std::string(status.message()).c_str());
  return code;
}

// A connection takes three descriptors.
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int RunDaemon(const Flags& flags) {
  // Where files are limited in size, memory for a worker is refused; the process does not end.
  (void)std::signal(SIGXFSZ, SIG_IGN);
  // Floods leave memory behind in as many arenas as there were threads, and the C library gives
  // none of it back by itself. malloc_trim gives back the free end of the first arena only: of
  // another, as much stays as twice the largest message.
  mallopt(M_ARENA_MAX, 1);
  RaiseFileLimit();
  absl::StatusOr<std::vector<int>> inherited = TakeInheritedSockets();
  if (!inherited.ok()) return Fail(kExitUsage, inherited.status());

  if (!flags.listen.empty()) {
    if (const auto address = ParseAddress(flags.listen); !address.ok()) {
      return Fail(kExitUsage, address.status());
    }
  }

  OperationRegistry operations;
  PluginLoader plugins;
  for (const std::string& path : flags.plugins) {
    if (absl::Status loaded = plugins.Load(path, operations); !loaded.ok()) {
      return Fail(kExitUsage, loaded);
    }
  }

  const absl::StatusOr<std::unique_ptr<Runtime>> runtime =
      Runtime::Create({.loop = flags.glib ? NewGlibLoop() : NewEpollLoop(),
                       .operations = std::move(operations),
                       .bounds = flags.bounds,
                       .role_priority = flags.role_priority,
                       .buffer_bounds = flags.buffer_bounds,
                       .max_handles = flags.max_handles,
                       .close_timeout = flags.close_timeout,
                       .slow_queue_wait = flags.slow_queue_wait,
                       .slow_execution = flags.slow_execution});
  if (!runtime.ok()) return Fail(kExitFailed, runtime.status());
  const absl::StatusOr<std::unique_ptr<Host>> host =
      Host::Start(**runtime, {.listen = flags.listen,
                              .listen_fds = *std::move(inherited),
                              .max_message_bytes = flags.max_message_bytes,
                              .ring_bytes = flags.ring_bytes,
                              .resume_grace = flags.resume_grace,
                              .drain_timeout = flags.drain_timeout,
                              .on_idle = [] { malloc_trim(0); }});
  if (!host.ok()) return Fail(kExitFailed, host.status());

  // Runs first of all that the loop runs: from then on work does not wait for it to start.
  const std::string ready = absl::StrJoin((*host)->addresses(), ", ");
  const absl::Status posted = (*runtime)->context().RunOnRuntimeThreadAsync(
      [ready] { fprintf(stderr, "listening at %s\n", ready.c_str()); });
  if (!posted.ok()) return Fail(kExitFailed, posted);
  return (*host)->ServeUntilSignal();
}

}  // namespace runloop::daemon

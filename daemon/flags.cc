#include "runloop/daemon/flags.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runloop/daemon/host.h"
#include "runloop/daemon/process_info.h"
#include "runloop/ipc/ring.h"
#include "runloop/runtime/runtime.h"

namespace runloop::daemon {
namespace {

constexpr int kExitUsage = 2;

constexpr char kDescription[] =
    "Runs operations, which plugins bring, on one thread with a running event loop, for other "
    "processes.";

constexpr char kFooter[] = R"(
Examples:
  runloopd --plugin=./mp4_writer.so --loop=glib
      Serves a plugin at the default socket, with a GLib main loop under its runtime thread.
  runloopd --listen=unix:/tmp/$USER/acme.sock --plugin=./a.so --plugin=./b.so
      Serves two plugins at a socket of one's own. Nobody else may write the directory.
  runloopctl --address=unix:/tmp/$USER/acme.sock status
      Looks at it.

Sockets that systemd passes (LISTEN_FDS) are used instead of --listen. SIGTERM and SIGINT drain; a
second one ends at once.

Exit codes: 0 drained, 1 failed, 2 wrong flags or a plugin that was refused, 3 cut off while draining.)";

absl::Duration ParseDuration(const char* flag, const std::string& text) {
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration) || duration < absl::ZeroDuration() ||
      duration > absl::Hours(24)) {
    throw CLI::ValidationError(
        flag, absl::StrCat("'", text, "' is no duration such as 10s or 500ms, or longer than 24h"));
  }
  return duration;
}

// A threshold, which may be above all durations.
absl::Duration ParseThreshold(const char* flag, const std::string& text) {
  return text == "inf" ? absl::InfiniteDuration() : ParseDuration(flag, text);
}

// ITEMS,BYTES, the latter with a unit or without.
Bound ParseBound(const char* flag, const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  Bound bound;
  bool ok = parts.size() == 2 && absl::SimpleAtoi(parts[0], &bound.items);
  if (ok) {
    std::string bytes = parts[1];
    const CLI::AsSizeValue as_size(false);
    try {
      ok = as_size(bytes).empty() && absl::SimpleAtoi(bytes, &bound.bytes);
    } catch (const CLI::ParseError&) {
      ok = false;
    }
  }
  if (!ok || bound.items < 1 || bound.bytes < 1) {
    throw CLI::ValidationError(
        flag, absl::StrCat("'", text, "' is no bound; write ITEMS,BYTES such as 1000,64MiB"));
  }
  return bound;
}

std::string FormatBound(const Bound& bound) {
  return absl::StrCat(bound.items, ",", bound.bytes >> 20, "MiB");
}

}  // namespace

std::variant<Flags, int> ParseFlags(int argc, char** argv) {
  const HostOptions defaults;
  const RuntimeOptions runtime_defaults;
  Flags flags{.max_message_bytes = defaults.max_message_bytes,
              .ring_bytes = defaults.ring_bytes,
              .max_handles = runtime_defaults.max_handles};
  std::string total = FormatBound(flags.bounds.total);
  std::string user = FormatBound(flags.bounds.user);
  std::string session = FormatBound(flags.bounds.session);
  std::string total_buffers = FormatBound(flags.buffer_bounds.total);
  std::string user_buffers = FormatBound(flags.buffer_bounds.user);
  std::string session_buffers = FormatBound(flags.buffer_bounds.session);
  std::string close_timeout = absl::FormatDuration(runtime_defaults.close_timeout);
  std::string slow_queue_wait = absl::FormatDuration(runtime_defaults.slow_queue_wait);
  std::string slow_execution = absl::FormatDuration(runtime_defaults.slow_execution);
  std::string loop = "epoll";
  std::string resume_grace = absl::FormatDuration(defaults.resume_grace);
  std::string role_priority(NameOf(runtime_defaults.role_priority));
  std::string drain_timeout = absl::FormatDuration(defaults.drain_timeout);

  CLI::App app(kDescription, "runloopd");
  app.footer(kFooter);
  app.set_version_flag("--version", absl::StrCat("runloopd ", Version()));
  app.add_option(
      "--listen", flags.listen,
      "Where to listen: unix:/path or /path. Default: RUNLOOP_ADDRESS, or "
      "/run/runloop/runloopd.sock as root, $XDG_RUNTIME_DIR/runloop/runloopd.sock as another user");
  app.add_option("--plugin", flags.plugins, "A shared library with operations; may be repeated")
      ->allow_extra_args(false);
  app.add_option("--loop", loop, "The event loop under the runtime thread: epoll or glib")
      ->capture_default_str()
      ->check(CLI::IsMember({"epoll", "glib"}));
  app.add_option("--max_message_bytes", flags.max_message_bytes,
                 "The largest gRPC message, both ways; units such as 64MiB are understood")
      ->capture_default_str()
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 30));
  app.add_option("--ring_bytes", flags.ring_bytes,
                 "Each of the two rings in shared memory that carry a session's messages: a power "
                 "of two from 4KiB to 16MiB; 0: they go by the gRPC stream")
      ->capture_default_str()
      ->transform(CLI::AsSizeValue(false))
      ->check([](const std::string& text) -> std::string {
        uint64_t bytes;
        const bool ok = absl::SimpleAtoi(text, &bytes) && (bytes == 0 || IsRingSize(bytes));
        return ok ? "" : "'" + text + "' is neither 0 nor a power of two from 4KiB to 16MiB";
      });
  app.add_option("--resume_grace", resume_grace,
                 "How long a session whose connection was lost goes on, for its worker to resume "
                 "it, up to 1h; 0: not at all")
      ->capture_default_str();
  app.add_option(
         "--role_priority", role_priority,
         "The highest priority for workers in a role, such as sandboxed ones, whatever they "
         "ask for: interactive, default or background")
      ->capture_default_str()
      ->check(CLI::IsMember({"interactive", "default", "background"}));
  app.add_option("--drain_timeout", drain_timeout,
                 "How long admitted work may take after SIGTERM, such as 10s")
      ->capture_default_str();
  app.add_option("--close_timeout", close_timeout,
                 "How long an object that a session held may take to close")
      ->capture_default_str();
  app.add_option("--slow_queue_wait", slow_queue_wait,
                 "Operations that wait for so long before they start are named in the log; inf: "
                 "none are")
      ->capture_default_str();
  app.add_option("--slow_execution", slow_execution,
                 "The same for operations and closures that hold the runtime thread for so long")
      ->capture_default_str();
  app.add_option("--max_handles", flags.max_handles, "Objects that one session may hold")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1'000'000}));
  app.add_option("--session_bound", session,
                 "Unfinished work of one session, as ITEMS,BYTES; more is refused")
      ->capture_default_str();
  app.add_option("--user_bound", user, "The same for all sessions of a uid or role")
      ->capture_default_str();
  app.add_option("--total_bound", total, "The same for all together")->capture_default_str();
  app.add_option("--session_buffers", session_buffers,
                 "Buffers in shared memory of one session, as ITEMS,BYTES; more are refused")
      ->capture_default_str();
  app.add_option("--user_buffers", user_buffers, "The same for all sessions of a uid or role")
      ->capture_default_str();
  app.add_option("--total_buffers", total_buffers, "The same for all together")
      ->capture_default_str();
  app.add_option("--probe_plugin", flags.probe_plugins)->allow_extra_args(false)->group("");
  try {
    app.parse(argc, argv);
    flags.resume_grace = ParseDuration("--resume_grace", resume_grace);
    if (flags.resume_grace > HostOptions::kMaxResumeGrace) {
      throw CLI::ValidationError("--resume_grace", "'" + resume_grace + "' is more than 1h");
    }
    flags.drain_timeout = ParseDuration("--drain_timeout", drain_timeout);
    flags.close_timeout = ParseDuration("--close_timeout", close_timeout);
    flags.slow_queue_wait = ParseThreshold("--slow_queue_wait", slow_queue_wait);
    flags.slow_execution = ParseThreshold("--slow_execution", slow_execution);
    flags.bounds = {.total = ParseBound("--total_bound", total),
                    .user = ParseBound("--user_bound", user),
                    .session = ParseBound("--session_bound", session)};
    flags.buffer_bounds = {.total = ParseBound("--total_buffers", total_buffers),
                           .user = ParseBound("--user_buffers", user_buffers),
                           .session = ParseBound("--session_buffers", session_buffers)};
    for (const auto& [flag, bound] : {std::pair("--session_bound", flags.bounds.session),
                                      std::pair("--user_bound", flags.bounds.user),
                                      std::pair("--total_bound", flags.bounds.total)}) {
      if (flags.max_message_bytes > bound.bytes) {
        throw CLI::ValidationError(flag,
                                   "a message of --max_message_bytes would never fit into it");
      }
    }
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    fprintf(stderr, "runloopd: %s; see runloopd --help\n", error.what());
    return kExitUsage;
  }
  flags.glib = loop == "glib";
  flags.role_priority = *PriorityOf(role_priority);
  return flags;
}

}  // namespace runloop::daemon

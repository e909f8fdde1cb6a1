#ifndef RUNLOOP_CLIENT_CLI_COMMANDS_H_
#define RUNLOOP_CLIENT_CLI_COMMANDS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "runloop/client/cli/daemon.h"

namespace runloop::cli {

// The commands of runloopctl. Each prints its result to stdout, its error to stderr, and returns
// the exit code.

int RunStatus(const GlobalOptions& global);

struct OperationsOptions {
  std::string describe;  // an operation's name; empty: list all
};
int RunOperations(const GlobalOptions& global, const OperationsOptions& options);

struct CallOptions {
  std::string method;
  std::string request = "{}";  // JSON; `-`: stdin
};
int RunCall(const GlobalOptions& global, const CallOptions& options);

struct WatchOptions {
  std::vector<std::string> topics;  // empty: list those there are
};
// Until it is interrupted.
int RunWatch(const GlobalOptions& global, const WatchOptions& options);

// What a daemon grants at most.
inline constexpr absl::Duration kLongestDrain = absl::Hours(24);

struct DrainOptions {
  std::optional<absl::Duration> timeout;  // of the drain; unset: the daemon's own
  bool wait = true;
  bool progress = false;  // even where stderr is no terminal
};
int RunDrain(const GlobalOptions& global, const DrainOptions& options);

struct RunOptions {
  std::string role = "worker";
  bool sandbox = true;
  bool verbose = false;
  std::vector<std::string> read_only_binds;
  std::vector<std::string> binds;
  std::vector<std::string> environment;  // NAME=VALUE
  std::vector<std::string> command;
};
int RunRun(const GlobalOptions& global, const RunOptions& options);

}  // namespace runloop::cli

#endif  // RUNLOOP_CLIENT_CLI_COMMANDS_H_

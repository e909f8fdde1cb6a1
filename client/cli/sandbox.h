#ifndef RUNLOOP_CLIENT_CLI_SANDBOX_H_
#define RUNLOOP_CLIENT_CLI_SANDBOX_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runloop/client/cli/commands.h"
#include "runloop/ipc/address.h"

namespace runloop::cli {

// Where the sandbox has the directory of the role socket.
inline constexpr char kSandboxDirectory[] = "/run/runloop";

// How a command is started in a sandbox of bubblewrap.
struct SandboxPlan {
  std::vector<std::string> argv;   // of bwrap
  std::vector<std::string> shown;  // what it sees beside the system, for people
};

// The path of the program that `name` means, as a shell would find it on `search_path`, without
// symbolic links. NOT_FOUND: there is none. PERMISSION_DENIED: it cannot be executed.
absl::StatusOr<std::string> FindProgram(const std::string& name, const std::string& search_path);

// What of the file system a program outside /usr needs beside itself: its directory, or only the
// file where the directory is one that holds other things, such as a home, /tmp or the daemon's
// socket. nullopt: the sandbox has it anyway.
std::optional<std::string> ProgramBind(const std::string& program, const std::string& home,
                                       const Address& daemon);

// The command line that runs `program` with the rest of options.command as its arguments and sees
// `role_directory`, without any capability. bwrap writes about the sandbox to the descriptor
// `info_fd`. INVALID_ARGUMENT: a path to bind that is not there, or that would show the command the
// socket of `daemon`.
absl::StatusOr<SandboxPlan> PlanSandbox(const std::string& bwrap, const std::string& program,
                                        const std::string& role_directory,
                                        const RunOptions& options, const std::string& home,
                                        const Address& daemon, int info_fd);

// What to do where `program` ended with kNoCommand in its sandbox: NOT_FOUND. `own` is the path of
// runloopctl itself, beside which are libraries that a worker is likely to use.
absl::Status NothingFound(const std::string& program, const std::string& own,
                          const RunOptions& options);

}  // namespace runloop::cli

#endif  // RUNLOOP_CLIENT_CLI_SANDBOX_H_

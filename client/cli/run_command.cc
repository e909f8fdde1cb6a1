#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runloop/client/cli/commands.h"
#include "runloop/client/cli/role_socket.h"
#include "runloop/client/cli/sandbox.h"
#include "runloop/client/cli/supervisor.h"
#include "runloop/client/cli/text.h"
#include "runloop/runtime/clock.h"

namespace runloop::cli {
namespace {

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

absl::Status CheckOptions(const RunOptions& options) {
  const std::string& role = options.role;
  const bool role_ok =
      !role.empty() && role.size() <= 64 &&
      absl::ascii_islower(static_cast<unsigned char>(role[0])) &&
      role.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789._-") == role.npos;
  if (!role_ok) {
    return UsageError(
        absl::StrCat("'", role, "' is not a role: a letter, then [a-z0-9._-], 64 at most"));
  }
  for (const std::string& variable : options.environment) {
    if (variable.find('=') == variable.npos || variable.starts_with('=')) {
      return UsageError(absl::StrCat("--setenv takes NAME=VALUE, not '", variable, "'"));
    }
  }
  return absl::OkStatus();
}

// Registers the socket and waits for the daemon's yes.
absl::StatusOr<std::unique_ptr<RoleRegistration>> Register(const Address& daemon,
                                                           const std::string& role,
                                                           int listening_fd,
                                                           absl::Duration timeout) {
  auto registration = RoleRegistration::Begin(daemon, role, listening_fd);
  if (!registration.ok()) return registration;
  const absl::Time deadline = Clock::Monotonic()->Now() + timeout;
  while (!(*registration)->accepted()) {
    const absl::Duration left = deadline - Clock::Monotonic()->Now();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(absl::StrCat("no answer from ", daemon.ToString(),
                                                      " within ", absl::FormatDuration(timeout)));
    }
    pollfd fd = {(*registration)->fd(), POLLIN, 0};
    poll(&fd, 1, static_cast<int>(absl::ToInt64Milliseconds(std::min(left, absl::Hours(1))) + 1));
    if (absl::Status status = (*registration)->OnReadable(); !status.ok()) return status;
  }
  return registration;
}

// This process's environment with the role socket and what was asked for in it.
std::vector<std::string> Environment(const std::string& address, const RunOptions& options) {
  std::vector<std::string> changes = {absl::StrCat("RUNLOOP_ADDRESS=", address)};
  changes.insert(changes.end(), options.environment.begin(), options.environment.end());
  std::vector<std::string> result;
  const auto name = [](const std::string& variable) {
    return variable.substr(0, variable.find('='));
  };
  for (char** variable = environ; *variable != nullptr; ++variable) result.emplace_back(*variable);
  for (const std::string& change : changes) {
    std::erase_if(result, [&](const std::string& old) { return name(old) == name(change); });
    result.push_back(change);
  }
  return result;
}

struct Started {
  ChildProcess child;
  std::unique_ptr<SandboxedCommand> sandboxed;  // null without a sandbox
};

absl::StatusOr<Started> StartSandboxed(const std::string& bwrap, const std::string& program,
                                       const RoleSocket& socket, const Address& daemon,
                                       const RunOptions& options, SignalGate& signals) {
  int info[2];
  if (pipe2(info, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "cannot make a pipe");
  UniqueFd reading(info[0]), writing(info[1]);
  fcntl(reading.get(), F_SETFL, O_NONBLOCK);
  absl::StatusOr<SandboxPlan> plan = PlanSandbox(bwrap, program, socket.directory(), options,
                                                 Variable("HOME"), daemon, writing.get());
  if (!plan.ok()) return plan.status();
  if (options.verbose) {
    std::fprintf(stderr, "runloopctl: runs %s, which sees %s%s\n", Printable(program).c_str(),
                 plan->shown.empty() ? "nothing outside the system directories"
                                     : Printable(absl::StrJoin(plan->shown, ", ")).c_str(),
                 absl::StrCat(" and the socket of role ", options.role).c_str());
  }
  signals.IgnoreInChildren();
  // No environment: bwrap stays in the sandbox, where /proc shows what it was started with.
  absl::StatusOr<ChildProcess> child = ChildProcess::Start(plan->argv, {}, writing.get(), signals);
  if (!child.ok()) return child.status();
  return Started{*std::move(child), std::make_unique<SandboxedCommand>(std::move(reading))};
}

absl::StatusOr<Started> StartPlain(const std::string& program, const RoleSocket& socket,
                                   const RunOptions& options, const SignalGate& signals) {
  std::vector<std::string> argv = options.command;
  argv[0] = program;
  absl::StatusOr<ChildProcess> child =
      ChildProcess::Start(argv, Environment(socket.address().ToString(), options), -1, signals);
  if (!child.ok()) return child.status();
  return Started{*std::move(child), nullptr};
}

}  // namespace

int RunRun(const GlobalOptions& global, const RunOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return Fail(status);
  absl::StatusOr<Address> daemon = DaemonAddress(global);
  if (!daemon.ok()) return Fail(UsageError(std::string(daemon.status().message())));
  // What this process was started with is not for the sandbox.
  if (options.sandbox && close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) != 0) {
    return Fail(absl::ErrnoToStatus(errno, "cannot keep descriptors from the sandbox"));
  }
  const std::string path = Variable("PATH");
  absl::StatusOr<std::string> program = FindProgram(options.command[0], path);
  if (!program.ok()) {
    Fail(program.status());
    return absl::IsNotFound(program.status()) ? kNoCommand : kCannotRun;
  }
  absl::StatusOr<std::string> bwrap = std::string();
  if (options.sandbox) {
    bwrap = FindProgram("bwrap", path);
    if (!bwrap.ok()) {
      return Fail(
          absl::FailedPreconditionError("a sandbox needs bwrap: install bubblewrap (apt-get "
                                        "install bubblewrap), or use --no-sandbox"));
    }
  }

  SignalGate signals;
  absl::StatusOr<std::unique_ptr<RoleSocket>> socket = RoleSocket::Create();
  if (!socket.ok()) return Fail(socket.status());
  absl::StatusOr<std::unique_ptr<RoleRegistration>> registration =
      Register(*daemon, options.role, (*socket)->fd(), global.timeout);
  if (!registration.ok()) return Fail(registration.status());
  absl::StatusOr<Started> started =
      options.sandbox ? StartSandboxed(*bwrap, *program, **socket, *daemon, options, signals)
                      : StartPlain(*program, **socket, options, signals);
  if (!started.ok()) return Fail(started.status());

  Supervisor supervisor({.daemon = *daemon,
                         .role = options.role,
                         .listening_fd = (*socket)->fd(),
                         .signal =
                             [&started](int signal) {
                               if (started->sandboxed != nullptr)
                                 return started->sandboxed->Signal(signal);
                               kill(started->child.pid(), signal);
                               return true;
                             },
                         .shares_terminal = started->sandboxed == nullptr},
                        *std::move(registration));
  supervisor.Run(started->child, signals);
  const int code = started->child.Wait();
  if (options.sandbox && code == kNoCommand) {
    std::error_code error;
    const std::string own = std::filesystem::read_symlink("/proc/self/exe", error).string();
    Fail(NothingFound(*program, own, options));
  }
  return code;
}

}  // namespace runloop::cli

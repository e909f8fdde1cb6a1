#ifndef RUNLOOP_CLIENT_CLI_SUPERVISOR_H_
#define RUNLOOP_CLIENT_CLI_SUPERVISOR_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/client/cli/role_socket.h"
#include "runloop/ipc/unix_socket.h"

namespace runloop::cli {

// SIGTERM, SIGINT and SIGHUP as something to poll, while it lives: blocked on this thread, unless
// they were ignored before, which they then stay. The first thing that a command makes, on its only
// thread.
class SignalGate {
 public:
  SignalGate();
  ~SignalGate();
  SignalGate(const SignalGate&) = delete;
  SignalGate& operator=(const SignalGate&) = delete;

  int fd() const { return fd_.get(); }
  // One signal that has come, or 0. `from_terminal`: everybody at the terminal got it.
  int Take(bool& from_terminal) const;

  // Has the programs that are started from now on ignore these signals, unless they ask for them.
  void IgnoreInChildren();
  const sigset_t& mask_before() const { return mask_before_; }

 private:
  sigset_t gated_;
  sigset_t mask_before_;
  UniqueFd fd_;
};

// A program that was started, and is waited for by its owner.
class ChildProcess {
 public:
  // `inherited_fd` (or -1) stays open in the child. Signals are as they were before `signals`.
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& argv,
                                            const std::vector<std::string>& environment,
                                            int inherited_fd, const SignalGate& signals);

  pid_t pid() const { return pid_; }
  // Readable once it has ended.
  int fd() const { return pidfd_.get(); }
  // Waits for the end. The exit code, or 128 + the signal that killed it.
  int Wait();

 private:
  ChildProcess(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}

  pid_t pid_;
  UniqueFd pidfd_;
};

// Finds the command that bwrap runs, to signal it rather than bwrap, whose end would kill it.
class SandboxedCommand {
 public:
  // `info` is the reading end of what bwrap's --info-fd writes.
  explicit SandboxedCommand(UniqueFd info) : info_(std::move(info)) {}

  // Sends `signal`. False: the command has not been started yet.
  bool Signal(int signal);

 private:
  bool Find();

  UniqueFd info_;
  std::string text_;  // what bwrap has written
  UniqueFd command_;  // a pidfd
};

// Keeps a role socket registered while a program runs.
class Supervisor {
 public:
  struct Options {
    Address daemon;
    std::string role;
    int listening_fd;
    // Sends a signal to the program; false: not yet possible, try again.
    std::function<bool(int signal)> signal;
    // The program gets what the terminal sends without our doing.
    bool shares_terminal;
  };

  // `registration` is in force.
  Supervisor(Options options, std::unique_ptr<RoleRegistration> registration)
      : options_(std::move(options)), registration_(std::move(registration)) {}

  // Returns when `child` has ended.
  void Run(const ChildProcess& child, const SignalGate& signals);

 private:
  void TakeSignals(const SignalGate& signals);
  void ForwardSignals();
  void CheckRegistration(bool readable);
  void Lost(const absl::Status& why);

  const Options options_;
  std::unique_ptr<RoleRegistration> registration_;  // null: lost
  absl::Duration backoff_;
  absl::Time next_attempt_ = absl::InfiniteFuture();
  bool told_ = false;
  std::vector<int> pending_signals_;
};

}  // namespace runloop::cli

#endif  // RUNLOOP_CLIENT_CLI_SUPERVISOR_H_

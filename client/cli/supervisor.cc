#include "runloop/client/cli/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runloop/client/cli/daemon.h"
#include "runloop/runtime/clock.h"

namespace runloop::cli {
namespace {

constexpr std::array kSignals = {SIGTERM, SIGINT, SIGHUP};
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(100);
constexpr absl::Duration kLongestBackoff = absl::Seconds(2);
// How soon to look again for a command that bwrap has not started yet.
constexpr absl::Duration kCommandPoll = absl::Milliseconds(20);

int PidfdOpen(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& string : strings) pointers.push_back(const_cast<char*>(string.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// True if `pid` is the second process of a pid namespace below ours: the first is bwrap's own.
bool IsSecondInNamespace(pid_t pid) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("NSpid:")) return line.ends_with("\t2");
  }
  return false;
}

}  // namespace

SignalGate::SignalGate() {
  sigemptyset(&gated_);
  for (int signal : kSignals) {
    struct sigaction before;
    if (sigaction(signal, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) {
      sigaddset(&gated_, signal);
    }
  }
  pthread_sigmask(SIG_BLOCK, &gated_, &mask_before_);
  fd_.Reset(signalfd(-1, &gated_, SFD_CLOEXEC | SFD_NONBLOCK));
}

SignalGate::~SignalGate() { pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr); }

int SignalGate::Take(bool& from_terminal) const {
  signalfd_siginfo info;
  if (read(fd(), &info, sizeof(info)) != sizeof(info)) return 0;
  from_terminal = info.ssi_code == SI_KERNEL;
  return static_cast<int>(info.ssi_signo);
}

void SignalGate::IgnoreInChildren() {
  // Ignored signals that are blocked still reach the signalfd.
  for (int signal : kSignals) {
    if (sigismember(&gated_, signal) == 1) ::signal(signal, SIG_IGN);
  }
}

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::vector<std::string>& argv,
                                                 const std::vector<std::string>& environment,
                                                 int inherited_fd, const SignalGate& signals) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // Onto itself: stays open across exec.
  if (inherited_fd >= 0) posix_spawn_file_actions_adddup2(&actions, inherited_fd, inherited_fd);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  posix_spawnattr_setsigmask(&attributes, &signals.mask_before());
  pid_t pid = 0;
  const int error = posix_spawn(&pid, argv[0].c_str(), &actions, &attributes, Pointers(argv).data(),
                                Pointers(environment).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return absl::ErrnoToStatus(error, absl::StrCat("cannot start ", argv[0]));
  UniqueFd pidfd(PidfdOpen(pid));
  if (!pidfd.valid()) {
    const int open_error = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return absl::ErrnoToStatus(open_error, "cannot watch a process (pidfd_open)");
  }
  return ChildProcess(pid, std::move(pidfd));
}

int ChildProcess::Wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

bool SandboxedCommand::Signal(int signal) {
  if (!command_.valid() && !Find()) return false;
  syscall(SYS_pidfd_send_signal, command_.get(), signal, nullptr, 0);
  return true;
}

bool SandboxedCommand::Find() {
  char buffer[1024];
  for (ssize_t size; info_.valid() && (size = read(info_.get(), buffer, sizeof(buffer))) >= 0;) {
    if (size == 0) info_.Reset();
    text_.append(buffer, static_cast<size_t>(size));
  }
  constexpr std::string_view kKey = "\"child-pid\":";
  const size_t key = text_.find(kKey);
  if (info_.valid() || key == text_.npos) return false;  // not all of it is written
  const int first = std::atoi(text_.c_str() + key + kKey.size());
  std::ifstream children(absl::StrCat("/proc/", first, "/task/", first, "/children"));
  for (pid_t pid; children >> pid;) {
    UniqueFd pidfd(PidfdOpen(pid));
    if (pidfd.valid() && IsSecondInNamespace(pid)) {
      command_ = std::move(pidfd);
      return true;
    }
  }
  return false;
}

void Supervisor::Run(const ChildProcess& child, const SignalGate& signals) {
  while (true) {
    absl::Time wake = registration_ == nullptr ? next_attempt_ : absl::InfiniteFuture();
    const absl::Time now = Clock::Monotonic()->Now();
    if (!pending_signals_.empty()) wake = std::min(wake, now + kCommandPoll);
    int timeout = -1;
    if (wake != absl::InfiniteFuture()) {
      timeout = static_cast<int>(absl::ToInt64Milliseconds(
          absl::Ceil(std::max(wake - now, absl::ZeroDuration()), absl::Milliseconds(1))));
    }
    pollfd fds[] = {{child.fd(), POLLIN, 0},
                    {signals.fd(), POLLIN, 0},
                    {registration_ == nullptr ? -1 : registration_->fd(), POLLIN, 0}};
    poll(fds, std::size(fds), timeout);
    if (fds[0].revents != 0) return;
    if (fds[1].revents != 0) TakeSignals(signals);
    ForwardSignals();
    CheckRegistration(fds[2].revents != 0);
  }
}

void Supervisor::TakeSignals(const SignalGate& signals) {
  bool from_terminal = false;
  while (const int signal = signals.Take(from_terminal)) {
    if (!from_terminal || !options_.shares_terminal) pending_signals_.push_back(signal);
  }
}

void Supervisor::ForwardSignals() {
  while (!pending_signals_.empty() && options_.signal(pending_signals_.front())) {
    pending_signals_.erase(pending_signals_.begin());
  }
}

void Supervisor::CheckRegistration(bool readable) {
  if (registration_ != nullptr) {
    if (!readable) return;
    if (absl::Status status = registration_->OnReadable(); !status.ok()) {
      Lost(status);
    } else if (registration_->accepted()) {
      backoff_ = absl::ZeroDuration();
      told_ = false;
    }
    return;
  }
  if (Clock::Monotonic()->Now() < next_attempt_) return;
  absl::StatusOr<std::unique_ptr<RoleRegistration>> again =
      RoleRegistration::Begin(options_.daemon, options_.role, options_.listening_fd);
  if (again.ok()) {
    registration_ = *std::move(again);
  } else {
    Lost(again.status());
  }
}

void Supervisor::Lost(const absl::Status& why) {
  registration_.reset();
  backoff_ = std::clamp(2 * backoff_, kFirstBackoff, kLongestBackoff);
  next_attempt_ = Clock::Monotonic()->Now() + backoff_;
  if (!std::exchange(told_, true)) {
    Fail(absl::Status(why.code(), absl::StrCat("the command's socket is not served, trying again: ",
                                               std::string(why.message()))));
  }
}

}  // namespace runloop::cli

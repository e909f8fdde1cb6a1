#include "runloop/daemon/plugin_probe.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/plugin.h"

extern char** environ;

namespace runloop::daemon {
namespace {

constexpr char kEntryPoint[] = "runloop_plugin";
constexpr size_t kMaxOutput = 64 << 10;
constexpr int kRefused = 1;  // the child's exit code when it says why

absl::Status CheckFile(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::NotFoundError("there is no such file")
                           : absl::InvalidArgumentError(strerror(errno));
  }
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return absl::InvalidArgumentError(strerror(errno));
  char magic[4] = {};
  if (!S_ISREG(info.st_mode) || read(file.get(), magic, sizeof(magic)) != sizeof(magic) ||
      memcmp(magic, "\177ELF", sizeof(magic)) != 0) {
    return absl::InvalidArgumentError("it is no shared library");
  }
  return absl::OkStatus();
}

// What the child said on standard error, if protobuf ended it: the name of the .proto file or of
// the symbol that two plugins have.
std::optional<std::string> FindCollision(const std::string& output) {
  constexpr absl::string_view kFile = "File already exists in database: ";
  constexpr absl::string_view kSymbol = "conflicts with the existing symbol ";
  for (const absl::string_view line : absl::StrSplit(output, '\n')) {
    if (const size_t at = line.find(kFile); at != line.npos) {
      return absl::StrCat("its proto file ",
                          absl::StripAsciiWhitespace(line.substr(at + kFile.size())),
                          " is that of a plugin or of the daemon already: give the file, and its "
                          "package, another name, or load only one of them");
    }
    if (const size_t at = line.find(kSymbol); at != line.npos) {
      return absl::StrCat("its proto files collide with loaded ones: ",
                          absl::StripAsciiWhitespace(line.substr(line.rfind("] ", at) + 2)));
    }
  }
  return std::nullopt;
}

std::string LastLine(const std::string& output) {
  std::string last;
  for (const absl::string_view line : absl::StrSplit(output, '\n')) {
    if (!absl::StripAsciiWhitespace(line).empty()) {
      last = std::string(absl::StripAsciiWhitespace(line));
    }
  }
  return last;
}

// A child process that writes to two pipes. Killed and reaped when this goes.
class Child {
 public:
  Child() = default;
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      (void)Wait();
    }
  }

  absl::Status Spawn(const std::vector<std::string>& command) {
    int output[2], errors[2];
    if (pipe2(output, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "no pipe");
    output_.Reset(output[0]);
    const UniqueFd output_end(output[1]);
    if (pipe2(errors, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "no pipe");
    errors_.Reset(errors[0]);
    const UniqueFd errors_end(errors[1]);

    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const absl::Cleanup destroy = [&actions] { posix_spawn_file_actions_destroy(&actions); };
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output_end.get(), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, errors_end.get(), STDERR_FILENO);
    std::vector<char*> arguments;
    for (const std::string& argument : command) {
      arguments.push_back(const_cast<char*>(argument.c_str()));
    }
    arguments.push_back(nullptr);
    const int error =
        posix_spawn(&pid_, command[0].c_str(), &actions, nullptr, arguments.data(), environ);
    if (error != 0) {
      pid_ = -1;
      return absl::ErrnoToStatus(error, absl::StrCat("cannot run ", command[0]));
    }
    return absl::OkStatus();
  }

  // Reads both pipes until they end. False if that takes too long.
  bool Read(absl::Duration timeout, std::string& output, std::string& errors) {
    const absl::Time deadline = Clock::Monotonic()->Now() + timeout;
    pollfd fds[] = {{.fd = output_.get(), .events = POLLIN},
                    {.fd = errors_.get(), .events = POLLIN}};
    std::string* const texts[] = {&output, &errors};
    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
      const absl::Duration left = deadline - Clock::Monotonic()->Now();
      if (left <= absl::ZeroDuration()) return false;
      if (poll(fds, 2, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1) < 0) continue;
      for (int i = 0; i < 2; ++i) {
        if (fds[i].fd < 0 || fds[i].revents == 0) continue;
        char buffer[4096];
        const ssize_t got = read(fds[i].fd, buffer, sizeof(buffer));
        if (got <= 0) {
          fds[i].fd = -1;
        } else if (texts[i]->size() < kMaxOutput) {
          texts[i]->append(buffer, got);
        }
      }
    }
    return true;
  }

  // As waitpid.
  int Wait() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return status;
  }

 private:
  pid_t pid_ = -1;
  UniqueFd output_, errors_;
};

}  // namespace

absl::Status LoadPluginHere(const std::string& path, OperationRegistry& operations) {
  if (absl::Status file = CheckFile(path); !file.ok()) return file;
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("it cannot be loaded: ", dlerror()));
  }
  using EntryPoint = const PluginEntry* (*)();
  const auto entry_point = reinterpret_cast<EntryPoint>(dlsym(library, kEntryPoint));
  if (entry_point == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("it is no runloop plugin: it has no symbol ", kEntryPoint,
                     " (end one of its sources with RUNLOOP_PLUGIN)"));
  }
  const PluginEntry* const entry = entry_point();
  if (entry == nullptr) return absl::InvalidArgumentError("its entry point returned nothing");
  if (entry->version != kPluginVersion) {
    return absl::InvalidArgumentError(absl::StrCat("it is of plugin version ", entry->version,
                                                   ", this daemon takes version ", kPluginVersion,
                                                   ": build it again with this daemon's headers"));
  }
  if (entry->name == nullptr || entry->register_operations == nullptr) {
    return absl::InvalidArgumentError("its entry is incomplete");
  }
  if (absl::Status registered = entry->register_operations(operations); !registered.ok()) {
    return absl::Status(
        registered.code(),
        absl::StrCat("'", entry->name, "' did not register: ", registered.message()));
  }
  return absl::OkStatus();
}

int RunPluginProbe(const std::vector<std::string>& paths) {
  OperationRegistry operations;
  for (const std::string& path : paths) {
    if (const absl::Status loaded = LoadPluginHere(path, operations); !loaded.ok()) {
      const std::string line = absl::StrReplaceAll(loaded.message(), {{"\n", " "}});
      printf("%s\n", line.c_str());
      fflush(stdout);
      _exit(kRefused);  // the plugins' destructors are not of interest
    }
  }
  _exit(0);
}

absl::Status ProbePlugin(const std::vector<std::string>& command, const std::string& path,
                         absl::Duration timeout) {
  if (absl::Status file = CheckFile(path); !file.ok()) return file;
  Child child;
  if (absl::Status spawned = child.Spawn(command); !spawned.ok()) return spawned;
  std::string output, errors;
  if (!child.Read(timeout, output, errors)) {
    return absl::DeadlineExceededError(
        absl::StrCat("it did not finish loading within ", absl::FormatDuration(timeout),
                     ": what takes long, or starts threads, belongs into its first operation"));
  }
  const int status = child.Wait();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  if (WIFEXITED(status) && WEXITSTATUS(status) == kRefused && !output.empty()) {
    return absl::InvalidArgumentError(LastLine(output));
  }
  if (const std::optional<std::string> collision = FindCollision(errors)) {
    return absl::AlreadyExistsError(*collision);
  }
  const std::string how = WIFSIGNALED(status) ? absl::StrCat("signal ", WTERMSIG(status), ", ",
                                                             strsignal(WTERMSIG(status)))
                                              : absl::StrCat("exit code ", WEXITSTATUS(status));
  const std::string last = LastLine(errors);
  return absl::InvalidArgumentError(
      absl::StrCat("it crashed while it was loaded (", how, ")", last.empty() ? "" : ": ", last));
}

}  // namespace runloop::daemon

#include "runloop/client/cli/sandbox.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace runloop::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kPath[] = "/usr/local/bin:/usr/bin:/bin";
// Sets back what runloopctl has bwrap ignore, so that a signal reaches the command and nothing else
// dies of it.
constexpr char kEnv[] = "/usr/bin/env";
constexpr char kDefaultSignals[] = "--default-signal=HUP,INT,TERM";

void Append(std::vector<std::string>& argv, std::initializer_list<std::string> more) {
  argv.insert(argv.end(), more);
}

bool IsWithin(const std::string& path, const std::string& directory) {
  return directory == "/" || path == directory || path.starts_with(directory + "/");
}

// True if a sandbox that sees `path` sees the daemon's socket.
bool Exposes(const std::string& path, const Address& daemon) {
  std::error_code error;
  const fs::path socket = fs::weakly_canonical(daemon.path, error);
  if (error) return true;
  const fs::path bound = fs::weakly_canonical(path, error);
  return error || IsWithin(socket.string(), bound.string());
}

// Directories that are links into /usr on most systems and real ones on some.
void AppendSystem(std::vector<std::string>& argv) {
  Append(argv, {"--ro-bind", "/usr", "/usr"});
  for (const char* directory : {"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}) {
    std::error_code error;
    const fs::file_status status = fs::symlink_status(directory, error);
    if (fs::is_symlink(status)) {
      Append(argv, {"--symlink", fs::read_symlink(directory, error).string(), directory});
    } else if (fs::is_directory(status)) {
      Append(argv, {"--ro-bind", directory, directory});
    }
  }
  // What programs of /usr look up: libraries by name and by alternative, fonts, the time zone.
  for (const char* path :
       {"/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts", "/etc/localtime"}) {
    Append(argv, {"--ro-bind-try", path, path});
  }
  Append(argv, {"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", "/run"});
}

absl::StatusOr<std::string> BindSource(const std::string& path, const Address& daemon) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  if (error || path.empty() || !fs::exists(absolute, error)) {
    return UsageError(absl::StrCat("cannot bind '", path, "': there is no such file or directory"));
  }
  if (Exposes(absolute.string(), daemon)) {
    return UsageError(absl::StrCat("cannot bind '", path, "': it holds the daemon's own socket, ",
                                   daemon.path, "; bind only what the command needs of it"));
  }
  return absolute.lexically_normal().string();
}

}  // namespace

absl::StatusOr<std::string> FindProgram(const std::string& name, const std::string& search_path) {
  std::vector<std::string> candidates;
  if (name.find('/') != name.npos) {
    candidates.push_back(name);
  } else {
    for (absl::string_view directory : absl::StrSplit(search_path, ':')) {
      candidates.push_back(absl::StrCat(directory.empty() ? "." : directory, "/", name));
    }
  }
  absl::Status failure = absl::NotFoundError(absl::StrCat("there is no command '", name, "'"));
  for (const std::string& candidate : candidates) {
    std::error_code error;
    const fs::path path = fs::canonical(candidate, error);
    if (error || name.empty()) continue;
    if (fs::is_regular_file(path, error) && access(path.c_str(), X_OK) == 0) return path.string();
    failure = absl::PermissionDeniedError(
        absl::StrCat("'", path.string(), "' is not a program that you may execute"));
  }
  return failure;
}

std::optional<std::string> ProgramBind(const std::string& program, const std::string& home,
                                       const Address& daemon) {
  if (IsWithin(program, "/usr")) return std::nullopt;
  const std::string directory = fs::path(program).parent_path().string();
  for (const char* system : {"/bin", "/sbin", "/lib", "/lib64"}) {
    if (IsWithin(program, system)) return std::nullopt;
  }
  std::error_code error;
  const bool holds_home =
      !home.empty() && IsWithin(fs::weakly_canonical(home, error).string(), directory);
  for (const char* shared : {"/", "/tmp", "/var/tmp", "/dev/shm", "/etc", "/home", "/root", "/run",
                             "/var", "/opt", "/srv", "/mnt"}) {
    if (directory == shared) return program;
  }
  return holds_home || Exposes(directory, daemon) ? program : directory;
}

absl::StatusOr<SandboxPlan> PlanSandbox(const std::string& bwrap, const std::string& program,
                                        const std::string& role_directory,
                                        const RunOptions& options, const std::string& home,
                                        const Address& daemon, int info_fd) {
  if (program.find('=') != program.npos) {
    return UsageError(absl::StrCat("'", program, "' cannot run in a sandbox: its path holds '='"));
  }
  SandboxPlan plan;
  std::vector<std::string>& argv = plan.argv;
  Append(argv, {bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv",
                "--cap-drop", "ALL", "--info-fd", absl::StrCat(info_fd)});
  AppendSystem(argv);
  Append(argv, {"--ro-bind", role_directory, kSandboxDirectory});

  const auto bind = [&](const char* how, const std::string& path) {
    Append(argv, {how, path, path});
    plan.shown.push_back(absl::StrCat(path, std::strcmp(how, "--bind") == 0 ? "" : " (read-only)"));
  };
  if (std::optional<std::string> own = ProgramBind(program, home, daemon)) bind("--ro-bind", *own);
  for (const std::string& path : options.read_only_binds) {
    absl::StatusOr<std::string> source = BindSource(path, daemon);
    if (!source.ok()) return source.status();
    bind("--ro-bind", *source);
  }
  for (const std::string& path : options.binds) {
    absl::StatusOr<std::string> source = BindSource(path, daemon);
    if (!source.ok()) return source.status();
    bind("--bind", *source);
  }

  Append(argv, {"--setenv", "PATH", kPath, "--setenv", "HOME", "/tmp", "--setenv",
                "RUNLOOP_ADDRESS", absl::StrCat("unix:", kSandboxDirectory, "/runloopd.sock")});
  for (const std::string& variable : options.environment) {
    const size_t equals = variable.find('=');
    Append(argv, {"--setenv", variable.substr(0, equals), variable.substr(equals + 1)});
  }
  Append(argv, {"--chdir", "/", "--", kEnv, kDefaultSignals, program});
  argv.insert(argv.end(), options.command.begin() + 1, options.command.end());
  return plan;
}

absl::Status NothingFound(const std::string& program, const std::string& own,
                          const RunOptions& options) {
  std::error_code error;
  std::vector<std::string> shown = {"/usr", "/lib"};
  for (const std::vector<std::string>* paths : {&options.read_only_binds, &options.binds}) {
    for (const std::string& path : *paths) shown.push_back(fs::canonical(path, error).string());
  }
  std::string binds;
  for (const std::string& beside : {program, own}) {
    const fs::path path = fs::canonical(fs::path(beside).parent_path() / "../lib", error);
    const bool has = std::any_of(shown.begin(), shown.end(), [&](const std::string& directory) {
      return IsWithin(path.string(), directory);
    });
    if (error || has) continue;
    absl::StrAppend(&binds, " --ro-bind ", path.string());
    shown.push_back(path.string());
  }
  return absl::NotFoundError(absl::StrCat(
      "the command ended with 127, as where it, its interpreter or a library is not in the sandbox "
      "(--verbose says what is): show it the directory of what is missing, such as with",
      binds.empty() ? " --ro-bind DIRECTORY" : binds));
}

}  // namespace runloop::cli

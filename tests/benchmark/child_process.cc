#include "runloop/tests/benchmark/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/tests/benchmark/measure.h"

namespace runloop::benchmark {

void BecomeChild() {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  alarm(120);
}

ChildProcess::ChildProcess(std::vector<std::string> arguments) {
  int in[2], out[2];
  Check(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0, "no pipe");
  std::string program = "/proc/self/exe";
  std::vector<char*> argv{program.data()};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  const int error = posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]);
  close(out[1]);
  to_ = fdopen(in[1], "w");
  from_ = fdopen(out[0], "r");
  Check(error == 0, "cannot start a process");
}

ChildProcess::~ChildProcess() {
  std::fclose(to_);
  std::fclose(from_);
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void ChildProcess::WriteLine(std::string_view line) {
  std::fprintf(to_, "%.*s\n", static_cast<int>(line.size()), line.data());
  std::fflush(to_);
}

std::optional<std::string> ChildProcess::ReadLine() {
  char* line = nullptr;
  size_t capacity = 0;
  const ssize_t size = getline(&line, &capacity, from_);
  std::optional<std::string> result;
  if (size > 0) result.emplace(line, static_cast<size_t>(size - 1));
  std::free(line);
  return result;
}

void ChildProcess::Terminate() { kill(pid_, SIGTERM); }

void ChildProcess::Await() {
  int status = 0;
  Check(waitpid(std::exchange(pid_, -1), &status, 0) > 0, "cannot wait for a process");
  Check(status == 0, absl::StrCat("a process ended with status ", status));
}

}  // namespace runloop::benchmark

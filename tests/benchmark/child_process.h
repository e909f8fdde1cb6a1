#ifndef RUNLOOP_TESTS_BENCHMARK_CHILD_PROCESS_H_
#define RUNLOOP_TESTS_BENCHMARK_CHILD_PROCESS_H_

#include <sys/types.h>

#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace runloop::benchmark {

// To be called first in a process that was started as a ChildProcess: it ends with its parent, and
// in any case after two minutes.
void BecomeChild();

// This program again, with other arguments, and a pipe each way. Started with exec: gRPC does not
// survive a fork.
class ChildProcess {
 public:
  explicit ChildProcess(std::vector<std::string> arguments);
  // Kills it if it was not awaited.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void WriteLine(std::string_view line);
  // Without its line feed; nothing at the end.
  std::optional<std::string> ReadLine();
  // SIGTERM.
  void Terminate();
  // Throws unless it ends by itself with exit code 0.
  void Await();

 private:
  pid_t pid_ = -1;
  std::FILE* to_ = nullptr;
  std::FILE* from_ = nullptr;
};

}  // namespace runloop::benchmark

#endif  // RUNLOOP_TESTS_BENCHMARK_CHILD_PROCESS_H_

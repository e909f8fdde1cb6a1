// Two and more processes: a daemon and workers on one unix socket. Prints one line a figure.

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "runloop/daemon/host.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/benchmark/child_process.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/paths.h"
#include "runloop/tests/benchmark/work.h"

// The driver gives these to the processes that it starts.
ABSL_FLAG(std::string, role, "driver", "driver, daemon, or the workload of a worker");
ABSL_FLAG(std::string, path, "", "how a worker reaches the daemon: stream or unary");
ABSL_FLAG(std::string, socket, "", "where the daemon listens");

namespace runloop::benchmark {
namespace {

constexpr int kWorkers[] = {1, 4};

struct PathKind {
  const char* name;
  std::unique_ptr<Path> (*connect)(const std::string& socket);
  int64_t flood;  // 0: for large payloads alone
};
constexpr PathKind kPaths[] = {{"stream", ConnectStream, 400'000},
                               {"buffer", ConnectBuffer, 0},
                               {"unary", ConnectUnary, 20'000}};

std::string PeerName(const PathKind& path) { return absl::StrCat("runloop_", path.name); }

// ---- the daemon ----

int ServeDaemon(const std::string& socket) {
  Pin(Side::kRuntime);
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // as runloopd does
  const LogSink log = [](LogSeverity severity, std::string_view line) {
    if (severity != LogSeverity::kInfo) StderrLog()(severity, line);
  };
  OperationRegistry operations;
  RegisterWork(operations);
  const std::unique_ptr<Runtime> runtime =
      Check(Runtime::Create({.operations = std::move(operations), .log = log}));
  const std::unique_ptr<Host> host = Check(Host::Start(*runtime, {.listen = socket, .log = log}));
  std::puts("ready");
  std::fflush(stdout);
  return host->ServeUntilSignal();
}

// ---- workers ----

void PrintBlocking(const PathKind& kind, Path& path) {
  const std::string payload(kSmallPayload, 1);
  for (int i = 0; i < 500; ++i) path.Operate(payload);
  const v1::GetUsageReply before = path.GetUsage();
  const int64_t cpu = ProcessCpu();
  const Samples samples = MeasureCalls([&] { path.Operate(payload); }, 20'000);
  const double calls = double(samples.size());
  const double client = double(ProcessCpu() - cpu);
  const v1::GetUsageReply after = path.GetUsage();
  const double server = double(after.process_cpu_ns() - before.process_cpu_ns());
  const std::string peer = PeerName(kind);
  Print(peer, "B1", "p50", samples.Quantile(0.5) / 1e3, "us");
  Print(peer, "B1", "p99", samples.Quantile(0.99) / 1e3, "us");
  Print(peer, "B1", "cpu_client", client / calls / 1e3, "us/call");
  Print(peer, "B1", "cpu_server", server / calls / 1e3, "us/call");
}

void PrintBulk(const PathKind& kind, Path& path) {
  const std::string payload(kBulkPayload, 3);
  for (int i = 0; i < 3; ++i) path.Operate(payload);
  const Samples samples = MeasureCalls([&] { path.Operate(payload); }, 60);
  const double p50 = samples.Quantile(0.5);
  Print(PeerName(kind), "B3", "p50", p50 / 1e6, "ms");
  Print(PeerName(kind), "B3", "bandwidth", double(kBulkPayload) / p50, "GB/s");
}

// What workers that flood together and the driver tell each other: one line of numbers.
void WriteNumbers(std::initializer_list<int64_t> numbers) {
  std::puts(absl::StrJoin(numbers, " ").c_str());
  std::fflush(stdout);
}

std::vector<int64_t> ReadNumbers(ChildProcess& child) {
  std::vector<int64_t> numbers;
  const std::string line = child.ReadLine().value_or("");
  for (const absl::string_view part : absl::StrSplit(line, ' ')) {
    Check(absl::SimpleAtoi(part, &numbers.emplace_back()), "a worker ended early");
  }
  return numbers;
}

void WriteUsage(Path& path) {
  const v1::GetUsageReply usage = path.GetUsage();
  WriteNumbers({usage.process_cpu_ns(), usage.runtime_thread_cpu_ns(), usage.operated()});
}

// One of several that flood at the same time.
void FloodTogether(Path& path, int64_t count) {
  path.Operate(std::string(kSmallPayload, 1));
  WriteUsage(path);
  if (std::getchar() == EOF) return;
  const int64_t cpu = ProcessCpu();
  path.Flood(count);
  WriteNumbers({Now(), ProcessCpu() - cpu});
  WriteUsage(path);
}

int Work(const std::string& workload, const std::string& socket) {
  Pin(Side::kCaller);
  for (const PathKind& kind : kPaths) {
    if (kind.name != absl::GetFlag(FLAGS_path)) continue;
    const std::unique_ptr<Path> path = kind.connect(socket);
    if (workload == "B1") PrintBlocking(kind, *path);
    if (workload == "B2") FloodTogether(*path, FloodSize(kind.flood));
    if (workload == "B3") PrintBulk(kind, *path);
  }
  return 0;
}

// ---- the driver ----

class Driver {
 public:
  // `arguments` are handed on to every process.
  explicit Driver(std::vector<std::string> arguments) : arguments_(std::move(arguments)) {
    directory_ = (std::filesystem::temp_directory_path() / "runloop-benchmark-XXXXXX").string();
    Check(mkdtemp(directory_.data()) != nullptr, "cannot make a directory");
    arguments_.push_back(absl::StrCat("--socket=", directory_, "/socket"));
  }
  ~Driver() { std::filesystem::remove_all(directory_); }

  void Run() {
    ChildProcess daemon(With({"--role=daemon"}));
    Check(daemon.ReadLine() == "ready", "the daemon did not start");
    for (const PathKind& kind : kPaths) {
      const bool small = kind.flood > 0;
      if (small && Wanted("B1")) Forward(kind, "B1");
      for (const int workers : kWorkers) {
        if (small && Wanted("B2")) Flood(kind, workers, FloodSize(kind.flood) / workers);
      }
      if (Wanted("B3")) Forward(kind, "B3");
    }
    daemon.Terminate();
    daemon.Await();
  }

 private:
  std::vector<std::string> With(std::vector<std::string> more) const {
    more.insert(more.begin(), arguments_.begin(), arguments_.end());
    return more;
  }
  std::vector<std::string> Worker(const PathKind& kind, std::string_view workload) const {
    return With({absl::StrCat("--path=", kind.name), "--role=" + std::string(workload)});
  }

  // Runs a worker that prints its own figures.
  void Forward(const PathKind& kind, std::string_view workload) const {
    ChildProcess worker(Worker(kind, workload));
    while (const std::optional<std::string> line = worker.ReadLine()) std::puts(line->c_str());
    worker.Await();
  }

  void Flood(const PathKind& kind, int workers, int64_t each) const {
    std::deque<ChildProcess> children;
    // Of the daemon: its processor time, its runtime thread's, operations; the latest that is
    // known.
    std::vector<int64_t> before, after;
    for (int i = 0; i < workers; ++i) {
      std::vector<std::string> arguments = Worker(kind, "B2");
      arguments.push_back(absl::StrCat("--flood=", each));
      before = ReadNumbers(children.emplace_back(std::move(arguments)));
    }
    const int64_t begin = Now();
    for (ChildProcess& child : children) child.WriteLine("go");
    int64_t end = 0, client_cpu = 0;
    for (ChildProcess& child : children) {
      const std::vector<int64_t> done = ReadNumbers(child);
      end = std::max(end, done.at(0));
      client_cpu += done.at(1);
      after = std::max(after, ReadNumbers(child));
      child.Await();
    }
    const int64_t count = each * workers;
    Check(after.at(2) - before.at(2) == count, "not every operation ran exactly once");
    const std::string peer = PeerName(kind);
    const auto print = [&](std::string_view metric, double value, std::string_view unit) {
      Print(peer, "B2", absl::StrCat(std::string(metric), "_c", workers), value, unit);
    };
    print("rate", double(count) * 1e3 / double(end - begin), "Mreq/s");
    print("cpu_client", double(client_cpu) / double(count), "ns/req");
    print("cpu_server", double(after.at(0) - before.at(0)) / double(count), "ns/req");
    print("cpu_runtime", double(after.at(1) - before.at(1)) / double(count), "ns/req");
  }

  std::vector<std::string> arguments_;
  std::string directory_;
};

int Main(std::vector<std::string> arguments) {
  SetUpMutexes();
  const std::string role = absl::GetFlag(FLAGS_role);
  if (role == "driver") {
    Driver(std::move(arguments)).Run();
    return 0;
  }
  BecomeChild();
  const std::string socket = absl::GetFlag(FLAGS_socket);
  return role == "daemon" ? ServeDaemon(socket) : Work(role, socket);
}

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  try {
    return runloop::benchmark::Main(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "across_processes: %s\n", error.what());
    return 1;
  }
}

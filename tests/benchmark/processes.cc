#include "runloop/tests/benchmark/processes.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runloop/tests/benchmark/child_process.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/work.h"

// The driver gives these to the processes that it starts.
ABSL_FLAG(std::string, role, "driver", "driver, server, or the workload of a worker");
ABSL_FLAG(std::string, socket, "", "where the server listens");

namespace runloop::benchmark {
namespace {

constexpr int kWorkers[] = {1, 4};

// ---- workers ----

void PrintBlocking(const System& system, Path& path) {
  const std::string payload(kSmallPayload, 1);
  for (int i = 0; i < 500; ++i) path.Operate(payload);
  const v1::GetUsageReply before = path.GetUsage();
  const int64_t cpu = ProcessCpu();
  const Samples samples = MeasureCalls([&] { path.Operate(payload); }, 20'000);
  const double calls = double(samples.size());
  const double client = double(ProcessCpu() - cpu);
  const v1::GetUsageReply after = path.GetUsage();
  const double server = double(after.process_cpu_ns() - before.process_cpu_ns());
  const char* const peer = system.name;
  Print(peer, "B1", "p50", samples.Quantile(0.5) / 1e3, "us");
  Print(peer, "B1", "p99", samples.Quantile(0.99) / 1e3, "us");
  Print(peer, "B1", "cpu_client", client / calls / 1e3, "us/call");
  Print(peer, "B1", "cpu_server", server / calls / 1e3, "us/call");
}

void PrintBulk(const System& system, Path& path) {
  const std::string payload(kBulkPayload, 3);
  for (int i = 0; i < 3; ++i) path.Operate(payload);
  const Samples samples = MeasureCalls([&] { path.Operate(payload); }, 60);
  const double p50 = samples.Quantile(0.5);
  Print(system.name, "B3", "p50", p50 / 1e6, "ms");
  Print(system.name, "B3", "bandwidth", double(kBulkPayload) / p50, "GB/s");
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

int Work(const System& system, const std::string& workload, const std::string& socket) {
  Pin(Side::kCaller);
  const std::unique_ptr<Path> path = system.connect(socket);
  if (workload == "B1") PrintBlocking(system, *path);
  if (workload == "B2") FloodTogether(*path, FloodSize(system.flood));
  if (workload == "B3") PrintBulk(system, *path);
  return 0;
}

// ---- the driver ----

// One system's.
class Driver {
 public:
  // `arguments` are handed on to every process.
  Driver(const System& system, std::vector<std::string> arguments)
      : system_(system), arguments_(std::move(arguments)) {
    directory_ = (std::filesystem::temp_directory_path() / "runloop-benchmark-XXXXXX").string();
    Check(mkdtemp(directory_.data()) != nullptr, "cannot make a directory");
    arguments_.push_back(absl::StrCat("--socket=", directory_, "/socket"));
    arguments_.push_back(absl::StrCat("--system=", system.name));
  }
  ~Driver() { std::filesystem::remove_all(directory_); }

  void Run() {
    ChildProcess server(With({"--role=server"}));
    Check(server.ReadLine() == "ready", "the server did not start");
    const bool small = system_.flood > 0;
    if (small && Wanted("B1")) Forward("B1");
    for (const int workers : kWorkers) {
      if (small && Wanted("B2")) Flood(workers, FloodSize(system_.flood) / workers);
    }
    if (Wanted("B3")) Forward("B3");
    server.Terminate();
    server.Await();
  }

 private:
  std::vector<std::string> With(std::vector<std::string> more) const {
    more.insert(more.begin(), arguments_.begin(), arguments_.end());
    return more;
  }

  // Runs a worker that prints its own figures.
  void Forward(std::string_view workload) const {
    ChildProcess worker(With({"--role=" + std::string(workload)}));
    while (const std::optional<std::string> line = worker.ReadLine()) std::puts(line->c_str());
    worker.Await();
  }

  void Flood(int workers, int64_t each) const {
    std::deque<ChildProcess> children;
    // Of the server: its processor time, its runtime thread's, operations; the latest that is
    // known.
    std::vector<int64_t> before, after;
    for (int i = 0; i < workers; ++i) {
      before =
          ReadNumbers(children.emplace_back(With({"--role=B2", absl::StrCat("--flood=", each)})));
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
    const auto print = [&](std::string_view metric, double value, std::string_view unit) {
      Print(system_.name, "B2", absl::StrCat(std::string(metric), "_c", workers), value, unit);
    };
    print("rate", double(count) * 1e3 / double(end - begin), "Mreq/s");
    print("cpu_client", double(client_cpu) / double(count), "ns/req");
    print("cpu_server", double(after.at(0) - before.at(0)) / double(count), "ns/req");
    if (after.at(1) == 0) return;  // it has no runtime thread
    print("cpu_runtime", double(after.at(1) - before.at(1)) / double(count), "ns/req");
  }

  const System& system_;
  std::vector<std::string> arguments_;
  std::string directory_;
};

int Main(const std::vector<System>& systems, const std::vector<std::string>& arguments) {
  SetUpMutexes();
  const std::string role = absl::GetFlag(FLAGS_role);
  const std::string socket = absl::GetFlag(FLAGS_socket);
  if (role != "driver") BecomeChild();
  for (const System& system : systems) {
    if (!WantedSystem(system.name)) continue;
    if (role == "server") return system.serve(socket);
    if (role != "driver") return Work(system, role, socket);
    Driver(system, arguments).Run();
  }
  return 0;
}

}  // namespace

int MeasureSystems(int argc, char** argv, const std::vector<System>& systems) {
  absl::ParseCommandLine(argc, argv);
  try {
    return Main(systems, std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
}

}  // namespace runloop::benchmark

// Samples handed over one by one, or together: what one of them costs. Closures in this process;
// operations in this process, and to a daemon in another by the ring and by the stream. Prints one
// line a figure: nanoseconds a sample.

#include <unistd.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "runloop/client/connect.h"
#include "runloop/runtime/runtime.h"
#include "runloop/runtime/wait.h"
#include "runloop/tests/benchmark/child_process.h"
#include "runloop/tests/benchmark/daemon.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/work.h"

// The program gives these to the process that it starts.
ABSL_FLAG(std::string, role, "driver", "driver or daemon");
ABSL_FLAG(std::string, socket, "", "where the daemon listens");

namespace runloop::benchmark {
namespace {

// What comes together: 10 ms of sound are 480 samples.
constexpr int kSamples = 480;
constexpr int kMost = 2'000;  // times

// `once` handles kSamples samples, and returns when all of them have been.
void Measure(const std::string& system, const std::string& metric,
             const std::function<void()>& once) {
  once();
  const Samples times = MeasureCalls(once, kMost);
  Print(system, "batching", metric, times.Quantile(0.5) / kSamples, "ns");
}

void PrintClosures(const LocalRuntimeContext& context) {
  const std::string payload(kSmallPayload, 1);
  uint64_t sum = 0;  // the runtime thread's
  const auto sample = [&] { sum += Sum(payload); };
  Measure("closures", "blocking_each", [&] {
    for (int i = 0; i < kSamples; ++i) Check(context.RunOnRuntimeThreadBlocking(sample));
  });
  Measure("closures", "async_each", [&] {
    for (int i = 1; i < kSamples; ++i) Check(context.RunOnRuntimeThreadAsync(sample));
    Check(context.RunOnRuntimeThreadBlocking(sample));
  });
  Measure("closures", "one_that_loops", [&] {
    Check(context.RunOnRuntimeThreadBlocking([&] {
      for (int i = 0; i < kSamples; ++i) sample();
    }));
  });
}

void PrintOperations(const std::string& system, const RuntimeContext& context) {
  const std::string payload(kSmallPayload, 1);
  const v1::OperateRequest request = MakeRequest(payload);
  Measure(system, "blocking_each", [&] {
    for (int i = 0; i < kSamples; ++i) OperateBlocking(context, payload);
  });
  Measure(system, "async_each", [&] {
    std::vector<Invocation> invocations;
    for (int i = 0; i < kSamples; ++i) {
      invocations.push_back(context.DispatchAsync(kOperate, request));
    }
    Check(WaitAll(invocations));
  });
  Measure(system, "batch", [&] {
    Batch batch;
    for (int i = 0; i < kSamples; ++i) batch.Add(kOperate, request);
    Check(WaitAll(context.DispatchBatch(std::move(batch))));
  });
}

int Drive(std::vector<std::string> arguments) {
  Pin(Side::kRuntime);
  OperationRegistry registry;
  RegisterWork(registry);
  const std::unique_ptr<Runtime> runtime =
      Check(Runtime::Create({.operations = std::move(registry), .thread = RuntimeThread::kSpawn}));
  std::string directory =
      (std::filesystem::temp_directory_path() / "runloop-benchmark-XXXXXX").string();
  Check(mkdtemp(directory.data()) != nullptr, "cannot make a directory");
  const std::string socket = directory + "/socket";
  arguments.push_back("--socket=" + socket);
  arguments.push_back("--role=daemon");
  {
    ChildProcess daemon(std::move(arguments));
    Check(daemon.ReadLine() == "ready", "the daemon did not start");
    Pin(Side::kCaller);
    PrintClosures(runtime->context());
    PrintOperations("local", runtime->context().AsRuntimeContext("benchmark"));
    for (const bool ring : {true, false}) {
      PrintOperations(
          ring ? "ring" : "stream",
          Check(Connect({.address = socket, .client_name = "benchmark", .ring = ring})));
    }
    daemon.Terminate();
    daemon.Await();
  }
  std::filesystem::remove_all(directory);
  return 0;
}

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  using namespace runloop::benchmark;
  std::vector<std::string> arguments(argv + 1, argv + argc);
  absl::ParseCommandLine(argc, argv);
  SetUpMutexes();
  try {
    if (absl::GetFlag(FLAGS_role) != "daemon") return Drive(std::move(arguments));
    BecomeChild();
    Pin(Side::kRuntime);
    return ServeDaemon(absl::GetFlag(FLAGS_socket));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "benchmark_batching: %s\n", error.what());
    return 1;
  }
}

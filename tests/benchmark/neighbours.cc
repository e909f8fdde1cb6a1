// What a worker's operations wait in the queue while another worker does its worst: fills its ring
// and stops, with requests that nobody has taken in and outcomes that nobody reads. Prints one line
// a figure: the queue wait of the first worker's operations, alone and beside the other.

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "runloop/client/connect.h"
#include "runloop/tests/benchmark/child_process.h"
#include "runloop/tests/benchmark/daemon.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/work.h"
#include "runloop/v1/diagnostics.grpc.pb.h"

ABSL_FLAG(std::string, role, "driver", "what this process is: for itself");
ABSL_FLAG(std::string, socket, "", "where the server listens: for itself");

namespace runloop::benchmark {
namespace {

constexpr int kNeighbours = 4;
// More than a ring holds.
constexpr int kFill = 20'000;
constexpr int kMostCalls = 200'000;

int Neighbour(const std::string& socket) {
  const RuntimeContext context = Check(Connect({.address = socket, .client_name = "neighbour"}));
  std::puts("connected");
  std::fflush(stdout);
  std::string line(16, '\0');
  Check(std::fgets(line.data(), 16, stdin) != nullptr, "the driver has gone");
  std::vector<Invocation> kept;
  for (int i = 0; i < kFill; ++i) {
    // Each brings a reply, which is not read.
    kept.push_back(context.DispatchAsync<v1::GetUsageReply>(kGetUsage, v1::GetUsageRequest()));
  }
  std::puts("filled");
  std::fflush(stdout);
  raise(SIGSTOP);
  return 0;
}

int Measured(const std::string& socket) {
  const RuntimeContext context = Check(Connect({.address = socket, .client_name = "measured"}));
  const std::string payload(kSmallPayload, 1);
  const Samples samples = MeasureCalls([&] { OperateBlocking(context, payload); }, kMostCalls);
  const auto stub = runloop::v1::Diagnostics::NewStub(
      grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials()));
  grpc::ClientContext call;
  runloop::v1::ListOperationsResponse operations;
  Check(stub->ListOperations(&call, {}, &operations).ok(), "the daemon tells nothing");
  const auto print = [](const char* what, const google::protobuf::Duration& value) {
    std::printf("%s %lld\n", what,
                static_cast<long long>(value.seconds() * 1'000'000'000 + value.nanos()));
  };
  for (const auto& operation : operations.operations()) {
    if (operation.name() != kOperate) continue;
    print("queue_wait_mean", operation.queue_wait().mean());
    print("queue_wait_p50", operation.queue_wait().p50());
    print("queue_wait_p99", operation.queue_wait().p99());
  }
  std::printf("round_trip_p50 %.0f\nround_trip_p99 %.0f\n", samples.Quantile(0.5),
              samples.Quantile(0.99));
  return 0;
}

void Measure(const std::string& workload, int neighbours) {
  std::string directory =
      (std::filesystem::temp_directory_path() / "runloop-benchmark-XXXXXX").string();
  Check(mkdtemp(directory.data()) != nullptr, "cannot make a directory");
  const std::string socket = absl::StrCat("--socket=", directory, "/socket");
  {
    const std::string time = absl::StrCat("--time=", TimeLimit(), "ns");
    ChildProcess server({"--role=server", socket});
    Check(server.ReadLine() == "ready", "the server did not start");
    std::vector<std::unique_ptr<ChildProcess>> children;
    for (int i = 0; i < neighbours; ++i) {
      children.push_back(
          std::make_unique<ChildProcess>(std::vector<std::string>{"--role=neighbour", socket}));
      Check(children.back()->ReadLine() == "connected", "a neighbour did not connect");
    }
    if (neighbours > 0) kill(server.pid(), SIGSTOP);
    for (const auto& child : children) child->WriteLine("fill");
    for (const auto& child : children) {
      Check(child->ReadLine() == "filled", "a neighbour filled nothing");
    }
    if (neighbours > 0) kill(server.pid(), SIGCONT);
    ChildProcess measured({"--role=measured", socket, time});
    while (const std::optional<std::string> line = measured.ReadLine()) {
      const size_t space = line->find(' ');
      Print("runloop_ring", workload, line->substr(0, space), std::stod(line->substr(space)), "ns");
    }
    measured.Await();
    children.clear();
    server.Terminate();
    server.Await();
  }
  std::filesystem::remove_all(directory);
}

int Main() {
  SetUpMutexes();
  const std::string role = absl::GetFlag(FLAGS_role);
  const std::string socket = absl::GetFlag(FLAGS_socket);
  if (role != "driver") BecomeChild();
  if (role == "server") return ServeDaemon(socket);
  if (role == "neighbour") return Neighbour(socket);
  if (role == "measured") return Measured(socket);
  Measure("alone", 0);
  Measure("beside", kNeighbours);
  return 0;
}

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  try {
    return runloop::benchmark::Main();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
}

// Two and more processes: a daemon and workers on one unix socket. Prints one line a figure.

#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "runloop/daemon/host.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/processes.h"
#include "runloop/tests/benchmark/work.h"

namespace runloop::benchmark {
namespace {

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

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  using namespace runloop::benchmark;
  return MeasureSystems(argc, argv,
                        {{"runloop_stream", ServeDaemon, ConnectStream, 400'000},
                         {"runloop_unary", ServeDaemon, ConnectUnary, 20'000}});
}

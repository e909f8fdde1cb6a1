#include "runloop/tests/benchmark/daemon.h"

#include <cstdio>
#include <memory>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "runloop/daemon/host.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/work.h"

namespace runloop::benchmark {

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
  // From the loop, so that signals are watched by then.
  Check(runtime->context().RunOnRuntimeThreadAsync([] {
    std::puts("ready");
    std::fflush(stdout);
  }));
  return host->ServeUntilSignal();
}

}  // namespace runloop::benchmark

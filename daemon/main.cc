#include <signal.h>

#include <variant>

#include "absl/synchronization/mutex.h"
#include "runloop/daemon/flags.h"
#include "runloop/daemon/plugin_loader.h"
#include "runloop/daemon/run_daemon.h"

int main(int argc, char** argv) {
  const auto flags = runloop::daemon::ParseFlags(argc, argv);
  if (const int* code = std::get_if<int>(&flags)) return *code;
  const auto& asked = std::get<runloop::daemon::Flags>(flags);
  if (!asked.probe_plugins.empty()) return runloop::RunPluginProbe(asked.probe_plugins);
#ifdef NDEBUG
  // Costs a lookup in a global table for every lock; debug builds keep it.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
  signal(SIGPIPE, SIG_IGN);  // whoever reads the log may go
  return runloop::daemon::RunDaemon(asked);
}

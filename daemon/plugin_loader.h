#ifndef RUNLOOP_DAEMON_PLUGIN_LOADER_H_
#define RUNLOOP_DAEMON_PLUGIN_LOADER_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runloop/runtime/operation_registry.h"

namespace runloop {

// Loads plugins (runtime/plugin.h), each first in a child process together with those loaded so
// far, so that one that crashes, hangs or collides with another is refused with an error and this
// process is none the worse. For use before there is a runtime, on one thread.
//
// What is distrusted: that a plugin is well made. It is not kept from doing harm on purpose: it is
// code of the operator's choice, and runs with all the daemon's rights.
class PluginLoader {
 public:
  struct Options {
    // The program that probes, with `--probe_plugin=PATH` for each plugin added to its arguments.
    // It hands those paths to RunPluginProbe and exits with what that returns.
    std::vector<std::string> probe_command = {"/proc/self/exe"};
    // How long a probe may take.
    absl::Duration probe_timeout = absl::Seconds(20);
  };

  PluginLoader() : PluginLoader(Options()) {}
  explicit PluginLoader(Options options) : options_(std::move(options)) {}

  // Loads the plugin and adds its operations; it stays loaded until the process ends. The error is
  // one line that names the plugin and says what is wrong with it.
  absl::Status Load(const std::string& path, OperationRegistry& operations);

 private:
  const Options options_;
  std::vector<std::string> loaded_;
};

// For the program that probes: loads the plugins at `paths`, says on standard output what is wrong,
// and returns the exit code.
int RunPluginProbe(const std::vector<std::string>& paths);

}  // namespace runloop

#endif  // RUNLOOP_DAEMON_PLUGIN_LOADER_H_

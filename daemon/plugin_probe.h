#ifndef RUNLOOP_DAEMON_PLUGIN_PROBE_H_
#define RUNLOOP_DAEMON_PLUGIN_PROBE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runloop/runtime/operation_registry.h"

namespace runloop::daemon {

// Loads the plugin at `path` into this process, for ever, and registers its operations. Where two
// plugins carry the same .proto file, protobuf ends the process inside of this: probe first.
//
// NOT_FOUND: no such file. INVALID_ARGUMENT: no shared library, without the entry point, or of
// another version. Others are the plugin's own.
absl::Status LoadPluginHere(const std::string& path, OperationRegistry& operations);

// What the probing child does: loads all of `paths`, says on standard output what is wrong, and
// returns the exit code.
int RunPluginProbe(const std::vector<std::string>& paths);

// Runs `command` (a program and its arguments), which ends in RunPluginProbe with the plugin at
// `path` as its last, and says in one line what happened to it: the child's own words, or that it
// crashed, that its .proto file collides, that it did not end within `timeout`. The child is dead
// and reaped when this returns.
absl::Status ProbePlugin(const std::vector<std::string>& command, const std::string& path,
                         absl::Duration timeout);

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_PLUGIN_PROBE_H_

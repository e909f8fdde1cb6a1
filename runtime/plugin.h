#ifndef RUNLOOP_RUNTIME_PLUGIN_H_
#define RUNLOOP_RUNTIME_PLUGIN_H_

#include <cstdint>

#include "absl/status/status.h"
#include "runloop/runtime/operation_registry.h"

namespace runloop {

// A plugin is a shared library that adds operations to a daemon: `runloopd --plugin=x.so`. It links
// runloop::runtime and the generated code of its own .proto files, and ends one of its sources with
//
//   RUNLOOP_PLUGIN("acme-media", [](runloop::OperationRegistry& operations) -> absl::Status { ...
//   });
//
// The daemon loads it first in a child process, so that one that crashes, or whose .proto files
// collide with loaded ones, is refused instead of taking the daemon down. It is therefore loaded
// twice: loading and registering must have no effects outside the process, and must not start
// threads; do that at the first operation. It is never unloaded.
struct PluginEntry {
  // kPluginVersion of the headers that it was built with. First, and for ever the first.
  uint32_t version;
  // A name for people: status and errors show it. Lives as long as the plugin.
  const char* name;
  // Adds the plugin's operations. Called once, on the runtime thread-to-be, before the runtime
  // exists.
  absl::Status (*register_operations)(OperationRegistry& operations);
};

// Raised by every change that makes an older plugin unsafe to load: of PluginEntry, or of the
// layout of the types that handlers use. A daemon takes only plugins of its own version.
inline constexpr uint32_t kPluginVersion = 1;

}  // namespace runloop

// Defines the plugin's entry point, the symbol `runloop_plugin`. What follows the name is
// convertible to absl::Status (*)(runloop::OperationRegistry&); a lambda in place may have commas
// in it.
#define RUNLOOP_PLUGIN(plugin_name, ...)                                                   \
  extern "C" __attribute__((visibility("default"))) const ::runloop::PluginEntry*          \
  runloop_plugin() {                                                                       \
    static const ::runloop::PluginEntry entry = {::runloop::kPluginVersion, (plugin_name), \
                                                 (__VA_ARGS__)};                           \
    return &entry;                                                                         \
  }                                                                                        \
  static_assert(true, "")

#endif  // RUNLOOP_RUNTIME_PLUGIN_H_

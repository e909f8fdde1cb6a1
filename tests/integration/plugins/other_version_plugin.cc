#include "runloop/runtime/plugin.h"

// As if built with the headers of a later runloop.
extern "C" __attribute__((visibility("default"))) const runloop::PluginEntry* runloop_plugin() {
  static const runloop::PluginEntry entry = {
      runloop::kPluginVersion + 1, "other_version",
      [](runloop::OperationRegistry&) { return absl::OkStatus(); }};
  return &entry;
}

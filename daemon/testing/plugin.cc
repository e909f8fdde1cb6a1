// One source for all plugins of plugin_loader_test; a definition says in which way each is bad.
#include "runloop/runtime/plugin.h"

#include <signal.h>
#include <unistd.h>

#if defined(PLUGIN_GOOD) || defined(PLUGIN_COLLIDING)
#include "plugin.pb.h"

namespace {

using runloop::daemon_test::v1::NothingReply;
using runloop::daemon_test::v1::NothingRequest;

absl::Status Register(runloop::OperationRegistry& operations) {
  return operations.Register<NothingRequest, NothingReply>(
      "runloop.daemon_test.v1.PluginOperations/Nothing",
      [](runloop::OperationContext&, NothingRequest) -> absl::StatusOr<NothingReply> {
        return NothingReply();
      });
}

}  // namespace

RUNLOOP_PLUGIN("good", Register);
#elif defined(PLUGIN_OTHER_VERSION)
extern "C" __attribute__((visibility("default"))) const runloop::PluginEntry* runloop_plugin() {
  static const runloop::PluginEntry entry = {runloop::kPluginVersion + 7, "other", nullptr};
  return &entry;
}
#elif defined(PLUGIN_WITHOUT_SYMBOL)
#elif defined(PLUGIN_CRASHING)
[[maybe_unused]] static const int crashed = raise(SIGSEGV);
#elif defined(PLUGIN_HANGING)
[[maybe_unused]] static const int hung = pause();
#elif defined(PLUGIN_FAILING)
RUNLOOP_PLUGIN("failing", [](runloop::OperationRegistry&) -> absl::Status {
  return absl::UnavailableError("the device is\nnot there");
});
#endif

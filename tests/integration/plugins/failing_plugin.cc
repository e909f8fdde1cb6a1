#include "runloop/runtime/plugin.h"

// Loads, but cannot register its operations.
RUNLOOP_PLUGIN("failing", [](runloop::OperationRegistry&) {
  return absl::FailedPreconditionError("the camera is missing");
});

#include "colliding/runloop/test/v1/test_operations.pb.h"
#include "runloop/runtime/plugin.h"

// Fine alone; beside the test plugin its .proto file collides with one of that plugin's.
RUNLOOP_PLUGIN("colliding", [](runloop::OperationRegistry&) -> absl::Status {
  const runloop::test::colliding::v1::Colliding linked;
  return linked.IsInitialized() ? absl::OkStatus() : absl::InternalError("not initialized");
});

#include "runloop/runtime/plugin.h"

#include "runloop/examples/frame_pipeline/frame_pipe.h"

RUNLOOP_PLUGIN("frame_pipe", [](runloop::OperationRegistry& operations) -> absl::Status {
  return runloop::examples::FramePipes::Register(operations);
});

#include "runloop/runtime/plugin.h"

#include <cstdlib>
#include <string>

#include "runloop/examples/mp4_recorder/mp4_service.h"

RUNLOOP_PLUGIN("mp4_recorder", [](runloop::OperationRegistry& operations) -> absl::Status {
  // Where files go is the host's decision, never a worker's.
  const char* directory = std::getenv("RUNLOOP_MP4_DIR");
  return runloop::examples::Mp4Service::Register(operations,
                                                 directory != nullptr ? directory : ".");
});

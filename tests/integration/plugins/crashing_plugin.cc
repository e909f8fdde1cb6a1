#include <cstdlib>

#include "runloop/runtime/plugin.h"

// Ends the process that loads it.
namespace {
[[maybe_unused]] const bool crashed = (std::abort(), true);
}  // namespace

RUNLOOP_PLUGIN("crashing", [](runloop::OperationRegistry&) { return absl::OkStatus(); });

#include "runloop/runtime/descriptor_closer.h"

#include <system_error>
#include <thread>
#include <utility>

namespace runloop::internal {

void DescriptorCloser::Close(std::vector<ChargedDescriptor> descriptors) {
  if (descriptors.empty()) return;
  absl::MutexLock lock(&state_->mutex);
  for (ChargedDescriptor& each : descriptors) state_->waiting.push_back(std::move(each));
  if (std::exchange(state_->running, true)) return;
  try {
    std::thread([state = state_] { Run(*state); }).detach();
  } catch (const std::system_error&) {
    // There are as many threads as there may be: they wait for the next that is to be closed.
    state_->running = false;
  }
}

void DescriptorCloser::Run(State& state) {
  while (true) {
    std::vector<ChargedDescriptor> descriptors;  // closed without the lock
    absl::MutexLock lock(&state.mutex);
    descriptors.swap(state.waiting);
    if (descriptors.empty()) {
      state.running = false;
      return;
    }
  }
}

}  // namespace runloop::internal

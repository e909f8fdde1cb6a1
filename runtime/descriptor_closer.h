#ifndef RUNLOOP_RUNTIME_DESCRIPTOR_CLOSER_H_
#define RUNLOOP_RUNTIME_DESCRIPTOR_CLOSER_H_

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "runloop/runtime/buffer_memory.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop::internal {

// A descriptor that a peer has sent, and the room that it takes until it is closed.
struct ChargedDescriptor {
  BufferCharge charge;  // given back last
  UniqueFd fd;
};

// Closes descriptors that peers have sent. That takes as long as their sender likes, where it is
// the flush of a file of FUSE, or a socket that lingers: so it happens on a thread of its own,
// which nobody waits for and which lives only as long as there is something to close.
//
// Any thread. Neither Close nor destruction waits: a close that is stuck keeps the thread, and what
// stands behind it, until the process ends. How much that may be is bounded by what the descriptors
// are charged to.
class DescriptorCloser {
 public:
  DescriptorCloser() : state_(std::make_shared<State>()) {}
  DescriptorCloser(const DescriptorCloser&) = delete;
  DescriptorCloser& operator=(const DescriptorCloser&) = delete;

  void Close(std::vector<ChargedDescriptor> descriptors);

 private:
  // Shared with the thread, which may outlive the closer.
  struct State {
    absl::Mutex mutex;
    std::vector<ChargedDescriptor> waiting ABSL_GUARDED_BY(mutex);
    bool running ABSL_GUARDED_BY(mutex) = false;
  };
  static void Run(State& state);

  const std::shared_ptr<State> state_;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_DESCRIPTOR_CLOSER_H_

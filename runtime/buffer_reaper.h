#ifndef RUNLOOP_RUNTIME_BUFFER_REAPER_H_
#define RUNLOOP_RUNTIME_BUFFER_REAPER_H_

#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "runloop/runtime/buffer_memory.h"

namespace runloop::internal {

// Frees the memory of buffers: the kernel takes about a tenth of a second for each GiB, so that
// much of it is freed on a thread of its own, which lives only as long as there is some. Any
// thread. Destruction waits until all is freed.
class BufferReaper {
 public:
  using Memory = std::vector<std::shared_ptr<BufferMemory>>;

  BufferReaper() = default;
  ~BufferReaper();
  BufferReaper(const BufferReaper&) = delete;
  BufferReaper& operator=(const BufferReaper&) = delete;

  // Lets go of it; what operations hold they free themselves. Not to be called with a lock that
  // freeing takes time under.
  void Free(Memory memory);

 private:
  void Run();

  absl::Mutex mutex_;
  Memory waiting_ ABSL_GUARDED_BY(mutex_);
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_ ABSL_GUARDED_BY(mutex_);  // it has ended, or is about to, unless running_
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_BUFFER_REAPER_H_

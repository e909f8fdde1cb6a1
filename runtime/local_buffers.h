#ifndef RUNLOOP_RUNTIME_LOCAL_BUFFERS_H_
#define RUNLOOP_RUNTIME_LOCAL_BUFFERS_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "runloop/runtime/buffer.h"
#include "runloop/runtime/buffer_registry.h"
#include "runloop/runtime/session.h"

namespace runloop::internal {

// The buffers of one session of the runtime's own process, as its worker has them: the last copy of
// one releases it. Any thread. Buffers outlive it.
class LocalBuffers {
 public:
  LocalBuffers(std::shared_ptr<BufferRegistry> registry, std::shared_ptr<Session> session)
      : registry_(std::move(registry)), session_(std::move(session)) {}

  // As RuntimeContext's.
  absl::StatusOr<Buffer> New(size_t size);
  absl::StatusOr<Buffer> Open(v1::BufferRef ref);
  absl::StatusOr<uint64_t> SendDescriptor(int fd);

 private:
  class Use;

  // The one use of what was found; copies share it.
  BufferView ViewOf(const BufferRegistry::Found& found);

  const std::shared_ptr<BufferRegistry> registry_;
  const std::shared_ptr<Session> session_;

  absl::Mutex mutex_;
  absl::flat_hash_map<uint64_t, std::weak_ptr<Use>> uses_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_LOCAL_BUFFERS_H_

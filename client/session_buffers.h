#ifndef RUNLOOP_CLIENT_SESSION_BUFFERS_H_
#define RUNLOOP_CLIENT_SESSION_BUFFERS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "runloop/client/side_channel.h"
#include "runloop/ipc/address.h"
#include "runloop/runtime/buffer.h"
#include "runloop/runtime/buffer_memory.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {

// A worker's buffers in one session with a daemon: mapped once each, and kept for later ones when
// they are given back. The side channel is attached when something is first asked of it.
//
// Any thread. Shared by the client and, weakly, by the buffers, which outlive it: without it the
// last copy of one only unmaps it.
//
// What is kept: buffers of this session's own that nobody else was granted; one is given out again
// once no operation holds it any more, which the page behind it tells. Of buffers of others the
// mapping is kept until its owner has released it, or many others were opened since.
class SessionBuffers : public std::enable_shared_from_this<SessionBuffers> {
 public:
  SessionBuffers(Address address, const v1::Welcome& welcome);
  ~SessionBuffers();

  const std::string& session_id() const { return session_id_; }
  // False: the daemon gives no buffers.
  bool offered() const { return !token_.empty(); }

  // As RuntimeContext's.
  absl::StatusOr<Buffer> New(size_t size);
  absl::StatusOr<Buffer> Open(v1::BufferRef ref);
  absl::Status Grant(const Buffer& buffer, const std::string& session_id, bool writable);
  absl::StatusOr<uint64_t> SendDescriptor(int fd);

  // The session has ended: what is given back from now on is only unmapped. Waits for nobody, not
  // for a side channel that is being attached either.
  void End();

 private:
  // A buffer that is mapped here.
  struct Mapping {
    uint64_t id = 0;
    size_t size = 0;  // usable; the page behind it is mapped, too
    bool writable = false;
    bool owned = false;
    bool granted = false;  // to somebody, who may see it as long as it exists
    MappedMemory memory;

    const BufferNotice& notice() const {
      return *reinterpret_cast<const BufferNotice*>(memory.data() + size);
    }
  };
  // What the copies of a Buffer share. Gives its mapping back at the end.
  class Use;

  absl::StatusOr<SideChannel::Answer> Ask(const v1::SideChannelRequest& request, int fd = -1);
  // The side channel; attaches one if there is none.
  absl::StatusOr<std::shared_ptr<SideChannel>> Channel();
  // The one there is, or null. UNAVAILABLE (NOT_CONNECTED): the session has ended.
  absl::StatusOr<std::shared_ptr<SideChannel>> AttachedChannel();
  // Tells the daemon, and unmaps them.
  void Release(std::vector<Mapping> mappings);
  static absl::StatusOr<Mapping> Map(SideChannel::Answer answer);
  void GiveBack(Mapping mapping);

  // One that was given back and nobody uses.
  bool TakeIdle(size_t size, Mapping& mapping) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<Use> AddUse(Mapping mapping) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<Use> FindUse(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static BufferView ViewOf(const std::shared_ptr<Use>& use);

  const Address address_;
  const std::string session_id_;
  const std::string token_;
  const uint64_t max_bytes_;

  absl::Mutex attach_mutex_;  // held while a side channel is being attached; before mutex_

  absl::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<SideChannel> channel_ ABSL_GUARDED_BY(mutex_);
  std::deque<Mapping> idle_ ABSL_GUARDED_BY(mutex_);  // the last given back comes last
  size_t idle_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, std::weak_ptr<Use>> uses_ ABSL_GUARDED_BY(mutex_);
  // Of other sessions; the last opened comes last.
  std::deque<std::shared_ptr<Use>> foreign_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_SESSION_BUFFERS_H_

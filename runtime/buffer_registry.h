#ifndef RUNLOOP_RUNTIME_BUFFER_REGISTRY_H_
#define RUNLOOP_RUNTIME_BUFFER_REGISTRY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/bounds.h"
#include "runloop/runtime/buffer.h"
#include "runloop/runtime/buffer_memory.h"
#include "runloop/runtime/buffer_reaper.h"
#include "runloop/runtime/descriptor_closer.h"
#include "runloop/runtime/session.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop::internal {

// The buffers of a runtime's sessions, and the file descriptors that workers have sent: which
// session may use which, and what all of them take.
//
// Any thread. Its lock is held for look-ups alone, never while memory is made, mapped or freed, or
// a descriptor closed: who drops descriptors never waits until they are closed
// (descriptor_closer.h). Ownership: the runtime's. Memory that operations hold outlives it.
//
// What is distrusted: every id, and every size. An id is looked up in what the asking session has,
// so a wrong one, a stale one and another session's look the same. Ids rise from a random place and
// are never used again.
//
// Nothing is recycled here: memory that one peer may still have mapped is never given to another
// (docs/decisions/buffers.md).
class BufferRegistry : public std::enable_shared_from_this<BufferRegistry> {
 public:
  // Sessions that one buffer may be granted to.
  static constexpr size_t kMaxGrants = 16;
  // Descriptors that were refused and are still to be closed, of one process or, for workers in a
  // role, of that role: of who has so many nothing more is to be received. What is kept for a
  // session counts for the session until it is closed.
  static constexpr int64_t kMaxUnclosed = 256;

  struct Found {
    uint64_t id = 0;
    std::shared_ptr<BufferMemory> memory;
    bool writable = false;
    bool owned = false;
  };

  // Ids rise from `first_id`.
  BufferRegistry(const BufferBounds& bounds, uint64_t first_id);
  ~BufferRegistry();

  // Room for memory of the session's that is no buffer, with the same bounds and errors.
  absl::StatusOr<BufferCharge> Reserve(const Session& session, int64_t bytes);
  // A new buffer of the session's, of at least `size` bytes. RESOURCE_EXHAUSTED (BUFFERS_FULL);
  // INVALID_ARGUMENT (INVALID_REQUEST): no bytes; ABORTED (SESSION_ENDED).
  absl::StatusOr<Found> Create(const std::shared_ptr<Session>& session, uint64_t size);
  // NOT_FOUND (UNKNOWN_BUFFER), as all that takes an id.
  absl::StatusOr<Found> Find(const Session& session, uint64_t id);
  absl::Status Release(const Session& session, uint64_t id);
  // Of a buffer of its own. See GrantBuffer in side_channel.proto.
  absl::Status Grant(const Session& owner, uint64_t id, const std::shared_ptr<Session>& to,
                     bool writable);

  // Keeps a descriptor for the session's operations. RESOURCE_EXHAUSTED (BUFFERS_FULL), ABORTED
  // (SESSION_ENDED): it is closed.
  absl::StatusOr<uint64_t> AddDescriptor(const std::shared_ptr<Session>& session, UniqueFd fd);
  absl::StatusOr<UniqueFd> TakeDescriptor(const Session& session, uint64_t id);
  // Closes descriptors that `from` has sent and nobody asked for, and counts them.
  void Refuse(const PeerIdentity& from, std::vector<UniqueFd> fds);
  // How many of those, and of those that found no room, are still to be closed: of the process or
  // role that `from` is of.
  int64_t Unclosed(const PeerIdentity& from) const;

  // What `ref` names, held as an operation holds it.
  absl::StatusOr<Buffer> Open(const Session& session, v1::BufferRef ref);

  // The session has ended: it uses nothing any more, and nobody what it owned. A Create that is on
  // its way finds that out.
  void EndSession(const Session& session);
  void EndAll();

  const BufferBounds& bounds() const { return bounds_; }
  // What a session has.
  Bound HeldBy(const Session& session) const;
  // Of all together, and of each uid or role that has any.
  std::vector<BoundStatus> GetBounds() const;
  // Requests that were refused, and descriptors that nobody asked for.
  uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }
  void CountRefused(uint64_t count) { refused_.fetch_add(count, std::memory_order_relaxed); }

 private:
  struct Entry {
    std::shared_ptr<BufferMemory> memory;
    bool writable = true;
    const Session* owner = nullptr;            // null: the session itself
    std::vector<const Session*> granted = {};  // an owner's
  };
  // What one session has.
  struct Holdings {
    std::shared_ptr<Account> account;
    std::shared_ptr<Account> user;  // null in process
    std::string name;               // for refusals
    std::string role;
    absl::flat_hash_map<uint64_t, Entry> buffers = {};
    absl::flat_hash_map<uint64_t, ChargedDescriptor> descriptors = {};
  };
  using Freed = BufferReaper::Memory;
  using Accounts = absl::flat_hash_map<std::string, std::weak_ptr<Account>>;

  // Adds it, unless it has ended.
  absl::StatusOr<Holdings*> HoldingsOf(const Session& session)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<Account> UserOf(const Session& session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static std::shared_ptr<Account> AccountOf(Accounts& accounts, const std::string& holder,
                                            const Bound& bound);
  // Takes `fd` only if it succeeds.
  absl::StatusOr<uint64_t> KeepDescriptor(const Session& session, UniqueFd& fd);
  void Close(const PeerIdentity& from, std::vector<UniqueFd> fds);
  absl::StatusOr<BufferCharge> Charge(const Holdings& holdings, int64_t items, int64_t bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Full(const Account& account, const Holdings& asks, int64_t bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string LargestHolder(const Account& among, const Holdings& asks)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes it from its session, and from those that have it by grant. `freed` goes without the lock.
  void Drop(Holdings& holdings, const Session& session, uint64_t id, Freed& freed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Unknown(uint64_t id);

  const BufferBounds bounds_;
  BufferReaper reaper_;
  DescriptorCloser closer_;
  const std::shared_ptr<Account> total_;
  std::atomic<uint64_t> refused_{0};

  mutable absl::Mutex mutex_;
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<const Session*, Holdings> sessions_ ABSL_GUARDED_BY(mutex_);
  Accounts users_ ABSL_GUARDED_BY(mutex_);
  Accounts unclosed_ ABSL_GUARDED_BY(mutex_);  // by process or role
  // Who has most, by the account's holder, and when that was looked up.
  struct Largest {
    absl::Time looked;
    std::string name;
  };
  absl::flat_hash_map<std::string, Largest> largest_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_BUFFER_REGISTRY_H_

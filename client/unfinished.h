#ifndef RUNLOOP_CLIENT_UNFINISHED_H_
#define RUNLOOP_CLIENT_UNFINISHED_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "runloop/client/remote_invocation.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {

// The invocations of one client that have no outcome yet, by id, and what they weigh. Its memory is
// bounded by how many they are, however many an old one has seen finished. Not thread-safe.
class Unfinished {
 public:
  using Invocations = std::vector<std::shared_ptr<RemoteInvocation>>;

  // Its id must be larger than that of any before.
  void Add(std::shared_ptr<RemoteInvocation> invocation, size_t request_bytes);

  bool Contains(uint64_t id) const;
  size_t size() const { return size_; }
  // Those that want a reply.
  size_t replies_wanted() const { return replies_wanted_; }
  // The sums of the charges and of the requests' sizes.
  int64_t bytes() const { return bytes_; }
  uint64_t request_bytes() const { return request_bytes_; }
  // Slots that are kept: at most kSlack beyond twice the unfinished ones.
  size_t kept() const { return slots_.size(); }
  static constexpr size_t kSlack = 1024;

  // Removes and returns it; null if it has an outcome already.
  std::shared_ptr<RemoteInvocation> Take(uint64_t id);

  // Moves those that `ranges` name to the end of `taken`. The cost goes by how many are taken and
  // by the number of ranges, not by their width. INVALID_ARGUMENT, and nothing is taken: the ranges
  // are not disjoint and ascending, or go beyond `last_id`, the last one that the peer can know of.
  absl::Status TakeRanges(const v1::InvocationRanges& ranges, uint64_t last_id, Invocations& taken);

  Invocations TakeAll();
  // In the order of ids.
  void ForEach(absl::FunctionRef<void(RemoteInvocation&)> visit) const {
    for (const Slot& slot : slots_) {
      if (slot.invocation != nullptr) visit(*slot.invocation);
    }
  }

 private:
  // Says itself what is needed to take it: under the client's lock nobody shall wait for the memory
  // of an invocation.
  struct Slot {
    uint64_t id = 0;
    std::shared_ptr<RemoteInvocation> invocation;  // null: it was taken
    uint64_t reply_wanted : 1 = 0;
    // Of the request. If it was taken: how many slots from this one on are known to be so.
    uint64_t size : 63 = 0;
  };

  // Where the first one is whose id is not less.
  size_t LowerBound(uint64_t id) const;
  std::shared_ptr<RemoteInvocation> TakeFrom(Slot& slot);
  void TakeThrough(size_t from, uint64_t last, Invocations& taken);
  // Drops slots that were taken: those in front, and all once they are many.
  void Sweep();

  std::deque<Slot> slots_;  // by id; the first one is not taken
  size_t size_ = 0;
  size_t replies_wanted_ = 0;
  int64_t bytes_ = 0;
  uint64_t request_bytes_ = 0;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_UNFINISHED_H_

#ifndef RUNLOOP_CLIENT_UNFINISHED_H_
#define RUNLOOP_CLIENT_UNFINISHED_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "runloop/client/remote_invocation.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {

// The invocations of one client that have no outcome yet, by id, and what they weigh. Not
// thread-safe.
class Unfinished {
 public:
  using Invocations = std::vector<std::shared_ptr<RemoteInvocation>>;

  // Its id must be larger than that of any before.
  void Add(std::shared_ptr<RemoteInvocation> invocation);

  bool Contains(uint64_t id) const { return by_id_.contains(id); }
  size_t size() const { return by_id_.size(); }
  // The sums of the charges and of the requests' sizes.
  int64_t bytes() const { return bytes_; }
  uint64_t request_bytes() const { return request_bytes_; }

  // Removes and returns it; null if it has an outcome already.
  std::shared_ptr<RemoteInvocation> Take(uint64_t id);

  // Moves those that `ranges` name to the end of `taken`. The cost goes by how many are taken and
  // by the number of ranges, not by their width. INVALID_ARGUMENT, and nothing is taken: the ranges
  // are not disjoint and ascending, or go beyond `last_id`, the last one that the peer can know of.
  absl::Status TakeRanges(const v1::InvocationRanges& ranges, uint64_t last_id, Invocations& taken);

  Invocations TakeAll();

 private:
  using Map = absl::btree_map<uint64_t, std::shared_ptr<RemoteInvocation>>;

  void Discharge(const RemoteInvocation& invocation);
  void TakeThrough(Map::iterator from, uint64_t last, Invocations& taken);

  Map by_id_;
  int64_t bytes_ = 0;
  uint64_t request_bytes_ = 0;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_UNFINISHED_H_

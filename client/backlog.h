#ifndef RUNLOOP_CLIENT_BACKLOG_H_
#define RUNLOOP_CLIENT_BACKLOG_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "runloop/client/remote_invocation.h"
#include "runloop/client/request_writer.h"

namespace runloop::internal {

// What was dispatched while there was no session, in the order of the calls. Not thread-safe.
class Backlog {
 public:
  struct Entry {
    std::shared_ptr<RemoteInvocation> invocation;
    RequestWriter::Dispatch dispatch;
    absl::Time deadline;       // its own
    absl::Time connect_until;  // how long it waits for a session
    uint64_t batch = 0;        // the id of the first one of its batch; 0: none

    absl::Time until() const { return std::min(deadline, connect_until); }
  };

  // Its id must be larger than that of any before.
  void Add(Entry entry);

  size_t size() const { return size_; }
  // The sum of the charges.
  int64_t bytes() const { return bytes_; }
  // Nothing is due earlier.
  absl::Time next_due() const { return next_due_; }

  // How long the one waits for a session that waits the shortest; they wait equally long.
  absl::Time connect_until() const {
    return size_ == 0 ? absl::InfiniteFuture() : slots_.front().entry.connect_until;
  }

  // Removes and returns it, and what does not run without it: those behind it in a batch that stops
  // at a failure. Empty if it is not here.
  std::vector<std::shared_ptr<RemoteInvocation>> Take(uint64_t id);
  // Those that may not wait any longer.
  std::vector<Entry> TakeDue(absl::Time now);
  std::vector<Entry> TakeAll() { return TakeDue(absl::InfiniteFuture()); }

 private:
  static int64_t ChargeOf(const Entry& entry);
  void Remove(const Entry& entry);

  // Without the invocation if it was taken.
  struct Slot {
    uint64_t id;
    Entry entry;
  };
  std::deque<Slot> slots_;
  size_t size_ = 0;
  int64_t bytes_ = 0;
  absl::Time next_due_ = absl::InfiniteFuture();
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_BACKLOG_H_

#ifndef RUNLOOP_DAEMON_INVOCATION_WINDOW_H_
#define RUNLOOP_DAEMON_INVOCATION_WINDOW_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "runloop/runtime/operation_task.h"
#include "runloop/v1/session.pb.h"

namespace runloop::daemon {

// What one session stream has dispatched and not yet told the worker the end of, in send order; and
// what it tells the worker of the rest, as a watermark and ranges.
//
// An invocation is known here by its number on the stream, which counts from 0 without the gaps
// that the worker's ids may have. Its memory is bounded by how many are unsettled, however many
// settled ones an old unsettled one has behind it. Not thread-safe.
class InvocationWindow {
 public:
  // Adds the next invocation and gives its number. `id` is larger than every id before.
  uint64_t Add(uint64_t id);

  // What to cancel it by; null clears it.
  void SetTask(uint64_t number, std::shared_ptr<internal::OperationTask> task);
  // An unsettled invocation.
  struct Found {
    uint64_t number = 0;
    std::shared_ptr<internal::OperationTask> task;
    bool given_up = false;
  };
  // By its id; nothing if it is settled or unknown.
  std::optional<Found> Find(uint64_t id) const;

  // The id of an unsettled number.
  uint64_t IdOf(uint64_t number) const;

  // The worker gave it up: what it is told is that, and not its end.
  void GiveUp(uint64_t number);
  // The next response tells its end. Once for each number.
  void BeginTelling(uint64_t number) { At(number).telling = true; }
  // False for an end that the worker is not told: it was given up, or is or has been told.
  bool Expects(uint64_t number) { return FindExpected(number) != nullptr; }

  // The worker is told its end. Once for each number.
  void Settle(uint64_t number);
  // The same if it Expects it; else false.
  bool SettleIfExpected(uint64_t number);

  // Writes the settled set: the watermark is the last id before the first unsettled one. Ranges
  // that were written before are left out where there are more than `kRepeatedRanges`.
  void Describe(v1::InvocationRanges& ranges);
  // The next Describe writes all of them.
  void DescribeAnew();

  // Not settled yet.
  size_t unsettled() const { return unsettled_; }
  uint64_t last_id() const { return last_id_; }
  // Entries that are kept: at most kSlack beyond twice the unsettled ones.
  size_t kept() const { return entries_.size(); }

  // A worker that has many unfinished invocations between finished ones costs a range for each;
  // they are repeated in every message only up to this number.
  static constexpr size_t kRepeatedRanges = 64;

  static constexpr size_t kSlack = 1024;

 private:
  struct Entry {
    uint64_t number = 0;
    uint64_t id = 0;
    bool settled = false;
    bool given_up = false;
    bool telling = false;
    std::shared_ptr<internal::OperationTask> task;
  };
  // Settled numbers above the first unsettled one.
  struct Run {
    uint64_t last = 0;
    uint64_t first_id = 0;
    uint64_t last_id = 0;
    bool changed = true;  // since it was written
  };

  // Where the entry of an unsettled number is.
  size_t IndexOf(uint64_t number) const;
  Entry& At(uint64_t number) { return entries_[IndexOf(number)]; }
  // Null: see Expects.
  Entry* FindExpected(uint64_t number);
  void Settle(Entry& entry);
  void SettleFirst(const Entry& entry);
  void SettleLater(const Entry& entry);

  uint64_t next_number_ = 0;
  // By number and so by id: the unsettled ones, the first of them in front, and some settled ones
  // that have not been swept out yet.
  std::deque<Entry> entries_;
  std::map<uint64_t, Run> runs_;  // by first number; neither overlapping nor adjacent
  uint64_t watermark_ = 0;
  uint64_t last_id_ = 0;
  size_t unsettled_ = 0;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_INVOCATION_WINDOW_H_

#ifndef RUNLOOP_TESTS_SEQUENCE_LINE_H_
#define RUNLOOP_TESTS_SEQUENCE_LINE_H_

#include <array>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "runloop/runtime/priority.h"

namespace runloop::sequence {

inline constexpr int kNone = -1;

// Something that waits for the runtime thread: an invocation, or a task of the runtime's own.
struct Entry {
  enum class Kind {
    kInvocation,
    kCloseSession,
    kObjectClosed,    // an object has said that it is closed
    kReleaseGivenUp,  // what invocations made whose results nobody wants
    kDestroyOverdue,  // what should have closed by now
  };
  Kind kind = Kind::kInvocation;
  int invocation = kNone;
  int session = kNone;
  int object = kNone;
  int lane = kNone;  // of the session, or kNone: the host's, which the runtime's own tasks share
  Priority priority = Priority::kDefault;
  int batch = kNone;     // that it is of
  bool closure = false;  // one of those that are taken several at a time
  bool taken = false;    // and it was
};

// The one order, as runtime/task_queue.h and runtime/priority.h promise it.
//
// Lanes: at most kLaneDepth tasks of a lane stand in the line; those beyond wait in their lane, and
// each that leaves the line lets the next of its lane join at the end. A batch does so as a whole,
// however long it is. What the host has of one priority is a lane.
//
// Priorities: each has a line. What is most urgent is first, but a line that is not empty has its
// turn after so many of more urgent ones: kMostPassedBy. A batch may be more; then more turns
// follow.
//
// Batches: one that has begun goes on, whatever waits.
//
// Closures that stand one behind the other are taken together, up to kMostTaken, one if something
// urgent waits, and no more than may pass by what is in the background. Taken, they have passed it
// by, and only what is urgent has others look whose turn it is before they have run.
class Line {
 public:
  static constexpr size_t kLaneDepth = 32;
  static constexpr size_t kMostTaken = 32;
  // By priority.
  static constexpr std::array<size_t, kPriorities> kMostPassedBy = {0, 7, 63};

  // True if it joined the line; false: it waits in its lane.
  bool Push(const Entry& entry) { return PushBatch({entry}); }
  // Those of a batch.
  bool PushBatch(std::vector<Entry> together);

  // There is one.
  Entry Pop();

  // Takes out those that `wanted` says yes to: first those that wait in lanes, then, from the back,
  // those in the line, so that none of them joins it meanwhile. Oldest first in each lane.
  std::vector<Entry> RemoveIf(const std::function<bool(const Entry&)>& wanted);

  // `invocation` takes the place of `old`.
  void Replace(int old, int invocation);

  bool empty() const;
  // Lanes that have more than may stand in the line.
  size_t full_lanes() const;
  // What comes next is of the batch of which the last one was.
  bool in_batch() const;

  // In words, for the table: who was passed by whom since the last call.
  std::vector<const char*> TakeTurns() { return std::exchange(turns_, {}); }

 private:
  struct Lane {
    size_t in_line = 0;
    std::deque<std::vector<Entry>> waiting;  // what joins together
  };
  using Waiting = std::deque<Entry>;

  Waiting& LineOf(Priority priority) { return lines_[static_cast<size_t>(priority)]; }
  const Waiting& LineOf(Priority priority) const { return lines_[static_cast<size_t>(priority)]; }
  Lane& LaneOf(const Entry& entry) { return lanes_[{entry.lane, entry.priority}]; }
  bool any_taken() const;
  bool HasTurn(Priority priority) const;
  Priority WhoseTurn() const;
  void NoteTurn(Priority priority);
  void TakeClosures();
  void PassBy(Priority priority, size_t count);
  // So many of a line have their turn.
  void MakeUpFor(Priority priority, size_t count);
  void Join(Lane& lane, const std::vector<Entry>& together);
  void LeaveLine(Priority priority, size_t place);

  std::array<Waiting, kPriorities> lines_;
  // Of each line: how many of more urgent ones went while it was not empty, less so many for each
  // turn of its own.
  std::array<size_t, kPriorities> passed_by_ = {};
  std::map<std::pair<int, Priority>, Lane> lanes_;
  int batch_ = kNone;  // of the last one
  Priority batch_priority_ = Priority::kDefault;
  std::vector<const char*> turns_;
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_LINE_H_

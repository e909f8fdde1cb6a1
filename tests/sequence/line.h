#ifndef RUNLOOP_TESTS_SEQUENCE_LINE_H_
#define RUNLOOP_TESTS_SEQUENCE_LINE_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <vector>

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
};

// The one order, as runtime/task_queue.h promises it: at most kLaneDepth tasks of a lane stand in
// the line; those beyond wait in their lane, and each that leaves the line lets the next of its
// lane join at the end.
class Line {
 public:
  static constexpr size_t kLaneDepth = 32;

  void Push(const Entry& entry) {
    Lane& lane = lanes_[entry.lane];
    if (lane.in_line < kLaneDepth) {
      ++lane.in_line;
      line_.push_back(entry);
    } else {
      lane.waiting.push_back(entry);
    }
  }

  // There is one.
  Entry Pop() {
    const Entry entry = line_.front();
    LeaveLine(0);
    return entry;
  }

  // Takes out those that `wanted` says yes to: first those that wait in lanes, then, from the back,
  // those in the line, so that none of them joins it meanwhile. Oldest first in each lane.
  std::vector<Entry> RemoveIf(const std::function<bool(const Entry&)>& wanted) {
    std::vector<Entry> removed;
    for (const Entry& entry : line_) {
      if (wanted(entry)) removed.push_back(entry);
    }
    for (auto& [number, lane] : lanes_) {
      for (const Entry& entry : lane.waiting) {
        if (wanted(entry)) removed.push_back(entry);
      }
      std::erase_if(lane.waiting, wanted);
    }
    for (size_t i = line_.size(); i-- > 0;) {
      if (wanted(line_[i])) LeaveLine(i);
    }
    return removed;
  }

  // `invocation` takes the place of `old`.
  void Replace(int old, int invocation) {
    for (Entry& entry : line_) {
      if (entry.invocation == old) entry.invocation = invocation;
    }
    for (auto& [number, lane] : lanes_) {
      for (Entry& entry : lane.waiting) {
        if (entry.invocation == old) entry.invocation = invocation;
      }
    }
  }

  bool empty() const { return line_.empty(); }
  // Lanes that have more than may stand in the line.
  size_t full_lanes() const {
    size_t full = 0;
    for (const auto& [number, lane] : lanes_) full += lane.waiting.empty() ? 0 : 1;
    return full;
  }

 private:
  struct Lane {
    size_t in_line = 0;
    std::deque<Entry> waiting;
  };

  void LeaveLine(size_t place) {
    Lane& lane = lanes_[line_[place].lane];
    line_.erase(line_.begin() + static_cast<std::ptrdiff_t>(place));
    if (lane.waiting.empty()) {
      --lane.in_line;
    } else {
      line_.push_back(lane.waiting.front());
      lane.waiting.pop_front();
    }
  }

  std::deque<Entry> line_;
  std::map<int, Lane> lanes_;
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_LINE_H_

#include "runloop/tests/sequence/line.h"

#include <algorithm>

namespace runloop::sequence {
namespace {

constexpr Priority kInteractive = Priority::kInteractive;
constexpr Priority kDefault = Priority::kDefault;
constexpr Priority kBackground = Priority::kBackground;

}  // namespace

// ---- whose turn it is ----

bool Line::in_batch() const {
  const Waiting& line = LineOf(batch_priority_);
  return batch_ != kNone && !line.empty() && line.front().batch == batch_;
}

bool Line::any_taken() const {
  const Waiting& line = LineOf(kDefault);
  return !line.empty() && line.front().taken;
}

bool Line::HasTurn(Priority priority) const {
  const auto level = static_cast<size_t>(priority);
  return !lines_[level].empty() && passed_by_[level] >= kMostPassedBy[level];
}

Priority Line::WhoseTurn() const {
  if (in_batch()) return batch_priority_;
  if (any_taken() && LineOf(kInteractive).empty()) return kDefault;
  if (HasTurn(kBackground)) return kBackground;
  if (HasTurn(kDefault)) return kDefault;
  if (!LineOf(kInteractive).empty()) return kInteractive;
  return LineOf(kDefault).empty() ? kBackground : kDefault;
}

void Line::NoteTurn(Priority priority) {
  const bool interactive = !LineOf(kInteractive).empty();
  const bool normal = !LineOf(kDefault).empty();
  const bool background = !LineOf(kBackground).empty();
  const bool others = interactive || (normal && priority == kBackground);
  if (in_batch()) {
    if (priority != kInteractive && others)
      turns_.push_back("a batch goes on before what is more urgent");
  } else if (priority == kInteractive) {
    if (any_taken()) turns_.push_back("interactive passes closures that were taken");
    if (normal) turns_.push_back("interactive passes default");
    if (background) turns_.push_back("interactive passes background");
  } else if (priority == kDefault) {
    if (interactive) turns_.push_back("default has its turn");
    if (interactive && any_taken()) turns_.push_back("closures that were taken have theirs");
    if (background) turns_.push_back("default passes background");
  } else if (others) {
    turns_.push_back("background has its turn");
  }
}

void Line::PassBy(Priority priority, size_t count) {
  for (size_t lower = static_cast<size_t>(priority) + 1; lower < kPriorities; ++lower) {
    // Nothing is owed to a line in which nothing waits.
    passed_by_[lower] = lines_[lower].empty() ? 0 : passed_by_[lower] + count;
  }
}

void Line::MakeUpFor(Priority priority, size_t count) {
  size_t& passed_by = passed_by_[static_cast<size_t>(priority)];
  passed_by -= std::min(passed_by, (kMostPassedBy[static_cast<size_t>(priority)] + 1) * count);
}

void Line::TakeClosures() {
  size_t most = LineOf(kInteractive).empty() ? kMostTaken : 1;
  if (!LineOf(kBackground).empty()) {
    const auto level = static_cast<size_t>(kBackground);
    most = std::min(most, kMostPassedBy[level] - passed_by_[level]);
  }
  size_t taken = 0;
  for (Entry& entry : LineOf(kDefault)) {
    if (!entry.closure || taken == most) break;
    entry.taken = true;
    ++taken;
  }
  PassBy(kDefault, taken);
  MakeUpFor(kDefault, taken);
}

Entry Line::Pop() {
  const Priority priority = WhoseTurn();
  NoteTurn(priority);
  Waiting& line = LineOf(priority);
  const bool were_taken = line.front().taken;
  if (line.front().closure && !were_taken) TakeClosures();
  const Entry entry = line.front();
  if (!entry.taken) PassBy(priority, 1);
  batch_ = entry.batch;
  batch_priority_ = priority;
  const bool passed_what_is_urgent = were_taken && !LineOf(kInteractive).empty();
  LeaveLine(priority, 0);
  if (!entry.taken || passed_what_is_urgent) MakeUpFor(priority, 1);
  if (line.empty()) passed_by_[static_cast<size_t>(priority)] = 0;
  return entry;
}

// ---- lanes ----

bool Line::PushBatch(std::vector<Entry> together) {
  Lane& lane = LaneOf(together.front());
  if (!lane.waiting.empty() || lane.in_line >= kLaneDepth) {
    lane.waiting.push_back(std::move(together));
    return false;
  }
  Join(lane, together);
  return true;
}

void Line::Join(Lane& lane, const std::vector<Entry>& together) {
  lane.in_line += together.size();
  for (const Entry& entry : together) LineOf(entry.priority).push_back(entry);
}

void Line::LeaveLine(Priority priority, size_t place) {
  Waiting& line = LineOf(priority);
  Lane& lane = LaneOf(line[place]);
  line.erase(line.begin() + static_cast<std::ptrdiff_t>(place));
  --lane.in_line;
  while (!lane.waiting.empty() && lane.in_line < kLaneDepth) {
    Join(lane, lane.waiting.front());
    lane.waiting.pop_front();
  }
}

std::vector<Entry> Line::RemoveIf(const std::function<bool(const Entry&)>& wanted) {
  std::vector<Entry> removed;
  for (const Waiting& line : lines_) {
    std::copy_if(line.begin(), line.end(), std::back_inserter(removed), wanted);
  }
  for (auto& [key, lane] : lanes_) {
    for (std::vector<Entry>& together : lane.waiting) {
      std::copy_if(together.begin(), together.end(), std::back_inserter(removed), wanted);
      std::erase_if(together, wanted);
    }
    std::erase_if(lane.waiting,
                  [](const std::vector<Entry>& together) { return together.empty(); });
  }
  for (int level = 0; level < kPriorities; ++level) {
    const auto priority = static_cast<Priority>(level);
    for (size_t i = LineOf(priority).size(); i-- > 0;) {
      if (wanted(LineOf(priority)[i])) LeaveLine(priority, i);
    }
    if (LineOf(priority).empty()) passed_by_[static_cast<size_t>(level)] = 0;
  }
  return removed;
}

void Line::Replace(int old, int invocation) {
  const auto replace = [&](Entry& entry) {
    if (entry.invocation == old) entry.invocation = invocation;
  };
  for (Waiting& line : lines_) std::for_each(line.begin(), line.end(), replace);
  for (auto& [key, lane] : lanes_) {
    for (std::vector<Entry>& together : lane.waiting) {
      std::for_each(together.begin(), together.end(), replace);
    }
  }
}

bool Line::empty() const {
  return std::all_of(lines_.begin(), lines_.end(),
                     [](const Waiting& line) { return line.empty(); });
}

size_t Line::full_lanes() const {
  size_t full = 0;
  for (const auto& [key, lane] : lanes_) full += lane.waiting.empty() ? 0 : 1;
  return full;
}

}  // namespace runloop::sequence

#include "runloop/daemon/invocation_window.h"

#include <algorithm>
#include <utility>

namespace runloop::daemon {

uint64_t InvocationWindow::Add(uint64_t id) {
  last_id_ = id;
  ++unsettled_;
  entries_.push_back({.id = id});
  return first_number_ + entries_.size() - 1;
}

void InvocationWindow::SetTask(uint64_t number, std::shared_ptr<internal::OperationTask> task) {
  entries_[number - first_number_].task = std::move(task);
}

std::shared_ptr<internal::OperationTask> InvocationWindow::FindTask(uint64_t id) const {
  const auto found =
      std::lower_bound(entries_.begin(), entries_.end(), id,
                       [](const Entry& entry, uint64_t wanted) { return entry.id < wanted; });
  if (found == entries_.end() || found->id != id) return nullptr;
  return found->task;
}

uint64_t InvocationWindow::IdOf(uint64_t number) const { return At(number).id; }

void InvocationWindow::Settle(uint64_t number) {
  --unsettled_;
  SetTask(number, nullptr);
  // In a flood each one is the first.
  if (number == first_number_) {
    uint64_t settled_to = number;
    if (const auto next = runs_.begin(); next != runs_.end() && next->first == number + 1) {
      settled_to = next->second.last;
      runs_.erase(next);
    }
    watermark_ = At(settled_to).id;
    entries_.erase(entries_.begin(), entries_.begin() + (settled_to - first_number_ + 1));
    first_number_ = settled_to + 1;
    return;
  }
  auto after = runs_.lower_bound(number);
  const bool joins_after = after != runs_.end() && after->first == number + 1;
  const uint64_t last = joins_after ? after->second.last : number;
  if (joins_after) after = runs_.erase(after);
  if (after != runs_.begin()) {
    const auto before = std::prev(after);
    if (before->second.last + 1 == number) {
      before->second = {.last = last};
      return;
    }
  }
  runs_.insert(after, {number, {.last = last}});
}

void InvocationWindow::Describe(v1::InvocationRanges& ranges) {
  ranges.set_watermark(watermark_);
  const bool all = runs_.size() <= kRepeatedRanges;
  for (auto& [first, run] : runs_) {
    if (!all && !run.changed) continue;
    run.changed = false;
    v1::InvocationRange& range = *ranges.add_ranges();
    range.set_first(At(first).id);
    range.set_last(At(run.last).id);
  }
}

}  // namespace runloop::daemon

#include "runloop/daemon/invocation_window.h"

#include <algorithm>
#include <utility>

namespace runloop::daemon {

uint64_t InvocationWindow::Add(uint64_t id) {
  last_id_ = id;
  ++unsettled_;
  entries_.push_back({.number = next_number_, .id = id});
  return next_number_++;
}

size_t InvocationWindow::IndexOf(uint64_t number) const {
  if (number == entries_.front().number) return 0;
  // Where nothing was swept out, numbers have no gaps.
  const uint64_t guess = number - entries_.front().number;
  if (guess < entries_.size() && entries_[guess].number == number) return guess;
  const auto found =
      std::lower_bound(entries_.begin(), entries_.end(), number,
                       [](const Entry& entry, uint64_t wanted) { return entry.number < wanted; });
  return static_cast<size_t>(found - entries_.begin());
}

void InvocationWindow::SetTask(uint64_t number, std::shared_ptr<internal::OperationTask> task) {
  Entry& last = entries_.back();  // mostly
  (last.number == number ? last : At(number)).task = std::move(task);
}

std::optional<InvocationWindow::Found> InvocationWindow::Find(uint64_t id) const {
  const auto found =
      std::lower_bound(entries_.begin(), entries_.end(), id,
                       [](const Entry& entry, uint64_t wanted) { return entry.id < wanted; });
  if (found == entries_.end() || found->id != id || found->settled) return std::nullopt;
  return Found{.number = found->number, .task = found->task, .given_up = found->given_up};
}

void InvocationWindow::GiveUp(uint64_t number) {
  Entry& entry = At(number);
  entry.given_up = true;
  entry.task = nullptr;
}

InvocationWindow::Entry* InvocationWindow::FindExpected(uint64_t number) {
  if (entries_.empty() || number < entries_.front().number) return nullptr;
  const size_t index = IndexOf(number);
  if (index >= entries_.size()) return nullptr;
  Entry& entry = entries_[index];
  const bool expected = !entry.settled && !entry.given_up && !entry.telling;
  return entry.number == number && expected ? &entry : nullptr;
}

bool InvocationWindow::SettleIfExpected(uint64_t number) {
  Entry* const entry = FindExpected(number);
  if (entry == nullptr) return false;
  Settle(*entry);
  return true;
}

uint64_t InvocationWindow::IdOf(uint64_t number) const { return entries_[IndexOf(number)].id; }

void InvocationWindow::Settle(uint64_t number) { Settle(At(number)); }

void InvocationWindow::Settle(Entry& entry) {
  entry.settled = true;
  entry.task = nullptr;
  --unsettled_;
  // In a flood each one is the first.
  if (&entry == &entries_.front()) {
    SettleFirst(entry);
    while (!entries_.empty() && entries_.front().settled) entries_.pop_front();
    return;
  }
  SettleLater(entry);
  if (entries_.size() > 2 * unsettled_ + kSlack) {
    std::erase_if(entries_, [](const Entry& each) { return each.settled; });
  }
}

void InvocationWindow::SettleFirst(const Entry& entry) {
  watermark_ = entry.id;
  if (const auto next = runs_.begin(); next != runs_.end() && next->first == entry.number + 1) {
    watermark_ = next->second.last_id;
    runs_.erase(next);
  }
}

void InvocationWindow::SettleLater(const Entry& entry) {
  Run run = {.last = entry.number, .first_id = entry.id, .last_id = entry.id};
  auto after = runs_.lower_bound(entry.number);
  if (after != runs_.end() && after->first == entry.number + 1) {
    run.last = after->second.last;
    run.last_id = after->second.last_id;
    after = runs_.erase(after);
  }
  if (after != runs_.begin()) {
    const auto before = std::prev(after);
    if (before->second.last + 1 == entry.number) {
      run.first_id = before->second.first_id;
      before->second = run;
      return;
    }
  }
  runs_.insert(after, {entry.number, run});
}

void InvocationWindow::Describe(v1::InvocationRanges& ranges) {
  ranges.set_watermark(watermark_);
  const bool all = runs_.size() <= kRepeatedRanges;
  for (auto& [first, run] : runs_) {
    if (!all && !run.changed) continue;
    run.changed = false;
    v1::InvocationRange& range = *ranges.add_ranges();
    range.set_first(run.first_id);
    range.set_last(run.last_id);
  }
}

void InvocationWindow::DescribeAnew() {
  for (auto& [first, run] : runs_) run.changed = true;
}

}  // namespace runloop::daemon

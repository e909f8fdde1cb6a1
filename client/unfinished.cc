#include "runloop/client/unfinished.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace runloop::internal {

void Unfinished::Add(std::shared_ptr<RemoteInvocation> invocation, size_t request_bytes) {
  ++size_;
  replies_wanted_ += invocation->reply_wanted ? 1 : 0;
  bytes_ += static_cast<int64_t>(RemoteInvocation::ChargeOf(request_bytes));
  request_bytes_ += request_bytes;
  Slot& slot = slots_.emplace_back();
  slot.id = invocation->id;
  slot.reply_wanted = invocation->reply_wanted ? 1 : 0;
  slot.size = request_bytes;
  slot.invocation = std::move(invocation);
}

bool Unfinished::Contains(uint64_t id) const {
  const size_t index = LowerBound(id);
  return index < slots_.size() && slots_[index].id == id && slots_[index].invocation != nullptr;
}

std::shared_ptr<RemoteInvocation> Unfinished::Take(uint64_t id) {
  if (!Contains(id)) return nullptr;
  std::shared_ptr<RemoteInvocation> invocation = TakeFrom(slots_[LowerBound(id)]);
  Sweep();
  return invocation;
}

absl::Status Unfinished::TakeRanges(const v1::InvocationRanges& ranges, uint64_t last_id,
                                    Invocations& taken) {
  uint64_t last = ranges.watermark();
  for (const v1::InvocationRange& range : ranges.ranges()) {
    if (range.first() <= last || range.last() < range.first()) {
      return absl::InvalidArgumentError("ranges of invocations are not ascending");
    }
    last = range.last();
  }
  if (last > last_id) {
    return absl::InvalidArgumentError(
        absl::StrCat("invocation ", last, " was acknowledged; the last one sent is ", last_id));
  }
  TakeThrough(0, ranges.watermark(), taken);
  for (const v1::InvocationRange& range : ranges.ranges()) {
    TakeThrough(LowerBound(range.first()), range.last(), taken);
  }
  Sweep();
  return absl::OkStatus();
}

Unfinished::Invocations Unfinished::TakeAll() {
  Invocations all;
  all.reserve(size_);
  if (!slots_.empty()) TakeThrough(0, slots_.back().id, all);
  Sweep();
  return all;
}

size_t Unfinished::LowerBound(uint64_t id) const {
  if (slots_.empty() || id <= slots_.front().id) return 0;
  // Where nothing was swept out, ids mostly have no gaps.
  const uint64_t guess = id - slots_.front().id;
  if (guess < slots_.size() && slots_[guess].id == id) return guess;
  const auto found =
      std::lower_bound(slots_.begin(), slots_.end(), id,
                       [](const Slot& slot, uint64_t wanted) { return slot.id < wanted; });
  return static_cast<size_t>(found - slots_.begin());
}

std::shared_ptr<RemoteInvocation> Unfinished::TakeFrom(Slot& slot) {
  --size_;
  replies_wanted_ -= slot.reply_wanted;
  bytes_ -= static_cast<int64_t>(RemoteInvocation::ChargeOf(slot.size));
  request_bytes_ -= slot.size;
  slot.size = 1;
  return std::move(slot.invocation);
}

void Unfinished::TakeThrough(size_t from, uint64_t last, Invocations& taken) {
  size_t to = from;
  while (to < slots_.size() && slots_[to].id <= last) {
    Slot& slot = slots_[to];
    if (slot.invocation != nullptr) taken.push_back(TakeFrom(slot));
    to += slot.size;
  }
  // A peer may name the same ones again and again.
  if (to > from) slots_[from].size = to - from;
}

void Unfinished::Sweep() {
  while (!slots_.empty() && slots_.front().invocation == nullptr) slots_.pop_front();
  if (slots_.size() > 2 * size_ + kSlack) {
    std::erase_if(slots_, [](const Slot& slot) { return slot.invocation == nullptr; });
  }
}

}  // namespace runloop::internal

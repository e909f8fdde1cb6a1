#include "runloop/client/backlog.h"

#include <algorithm>
#include <utility>

namespace runloop::internal {

void Backlog::Add(Entry entry) {
  ++size_;
  bytes_ += ChargeOf(entry);
  next_due_ = std::min(next_due_, entry.until());
  const uint64_t id = entry.invocation->id;
  slots_.push_back({.id = id, .entry = std::move(entry)});
}

std::vector<std::shared_ptr<RemoteInvocation>> Backlog::Take(uint64_t id) {
  auto slot = std::lower_bound(slots_.begin(), slots_.end(), id,
                               [](const Slot& one, uint64_t wanted) { return one.id < wanted; });
  if (slot == slots_.end() || slot->id != id || slot->entry.invocation == nullptr) return {};
  const bool stops = slot->entry.dispatch.stop_at_failure;
  const uint64_t batch = slot->entry.batch;
  std::vector<std::shared_ptr<RemoteInvocation>> taken;
  do {
    const Entry entry = std::exchange(slot->entry, {});
    if (entry.invocation == nullptr) continue;
    Remove(entry);
    taken.push_back(entry.invocation);
  } while (stops && ++slot != slots_.end() && slot->entry.batch == batch);
  while (!slots_.empty() && slots_.front().entry.invocation == nullptr) slots_.pop_front();
  return taken;
}

std::vector<Backlog::Entry> Backlog::TakeDue(absl::Time now) {
  std::vector<Entry> due;
  if (next_due_ > now && now != absl::InfiniteFuture()) return due;
  next_due_ = absl::InfiniteFuture();
  std::erase_if(slots_, [&](Slot& slot) {
    if (slot.entry.invocation == nullptr) return true;
    if (slot.entry.until() > now) {
      next_due_ = std::min(next_due_, slot.entry.until());
      return false;
    }
    Remove(slot.entry);
    due.push_back(std::move(slot.entry));
    return true;
  });
  return due;
}

int64_t Backlog::ChargeOf(const Entry& entry) {
  return static_cast<int64_t>(RemoteInvocation::ChargeOf(entry.dispatch.request_size()));
}

void Backlog::Remove(const Entry& entry) {
  --size_;
  bytes_ -= ChargeOf(entry);
}

}  // namespace runloop::internal

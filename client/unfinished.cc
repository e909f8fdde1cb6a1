#include "runloop/client/unfinished.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace runloop::internal {

void Unfinished::Add(std::shared_ptr<RemoteInvocation> invocation) {
  bytes_ += static_cast<int64_t>(invocation->charge());
  request_bytes_ += invocation->request_bytes;
  const uint64_t id = invocation->id;
  by_id_.emplace_hint(by_id_.end(), id, std::move(invocation));
}

std::shared_ptr<RemoteInvocation> Unfinished::Take(uint64_t id) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return nullptr;
  std::shared_ptr<RemoteInvocation> invocation = std::move(found->second);
  Discharge(*invocation);
  by_id_.erase(found);
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
  TakeThrough(by_id_.begin(), ranges.watermark(), taken);
  for (const v1::InvocationRange& range : ranges.ranges()) {
    TakeThrough(by_id_.lower_bound(range.first()), range.last(), taken);
  }
  return absl::OkStatus();
}

Unfinished::Invocations Unfinished::TakeAll() {
  Invocations all;
  all.reserve(by_id_.size());
  for (auto& [id, invocation] : by_id_) all.push_back(std::move(invocation));
  by_id_.clear();
  bytes_ = 0;
  request_bytes_ = 0;
  return all;
}

void Unfinished::Discharge(const RemoteInvocation& invocation) {
  bytes_ -= static_cast<int64_t>(invocation.charge());
  request_bytes_ -= invocation.request_bytes;
}

void Unfinished::TakeThrough(Map::iterator from, uint64_t last, Invocations& taken) {
  auto to = from;
  for (; to != by_id_.end() && to->first <= last; ++to) {
    Discharge(*to->second);
    taken.push_back(std::move(to->second));
  }
  by_id_.erase(from, to);
}

}  // namespace runloop::internal

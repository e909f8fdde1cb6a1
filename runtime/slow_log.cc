#include "runloop/runtime/slow_log.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace runloop {

std::string InvocationStatus::ToString() const {
  std::string text = operation;
  if (!session_id.empty()) absl::StrAppend(&text, " of session ", session_id);
  std::vector<std::string> worker;
  if (!client_name.empty()) worker.push_back(absl::StrCat("client ", client_name));
  if (pid != 0) worker.push_back(absl::StrCat("pid ", pid));
  if (!role.empty()) worker.push_back(absl::StrCat("role ", role));
  if (!worker.empty()) absl::StrAppend(&text, " (", absl::StrJoin(worker, ", "), ")");
  if (!call_site.empty()) absl::StrAppend(&text, ", called at ", call_site);
  if (!trace_id.empty()) absl::StrAppend(&text, ", trace ", trace_id);
  if (queue_wait > absl::ZeroDuration()) {
    absl::StrAppend(&text, ", waited for ", absl::FormatDuration(queue_wait));
  }
  absl::StrAppend(&text, ", ran for ", absl::FormatDuration(execution));
  return text;
}

namespace internal {

bool SlowLog::Add(absl::Duration execution, absl::Time now,
                  absl::FunctionRef<InvocationStatus()> describe) {
  const Kind kind = IsSlowRun(execution) ? kRan : kWaited;
  absl::MutexLock lock(&mutex_);
  ++count_;
  Share& share = shares_[kind];
  const bool due = !lines_.empty();
  if (now >= share.window_end) {
    EndWindow(kind, now);
    share.window_end = now + kWindow;
    share.lines = 0;
  }
  if (share.lines == kLines) {
    // What runs slowly cannot come often; of what waits there may be a flood.
    if (kind == kRan) share.recent.push_back(describe());
    if (share.recent.size() > kRecent) share.recent.pop_front();
    return share.left_out++ == 0;
  }
  ++share.lines;
  share.recent.push_back(describe());
  if (share.recent.size() > kRecent) share.recent.pop_front();
  lines_.push_back(absl::StrCat("slow: ", share.recent.back().ToString()));
  return !due;
}

void SlowLog::EndWindow(Kind kind, absl::Time now) {
  Share& share = shares_[kind];
  if (share.left_out == 0 || now < share.window_end) return;
  lines_.push_back(absl::StrCat(
      "slow: ", std::exchange(share.left_out, 0), " more that ",
      kind == kRan ? absl::StrCat("ran for at least ", absl::FormatDuration(execution_))
                   : absl::StrCat("waited for at least ", absl::FormatDuration(queue_wait_)),
      " were left out here; `runloopctl status` shows the latest"));
}

std::vector<std::string> SlowLog::TakeLines(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  for (const Kind kind : {kRan, kWaited}) EndWindow(kind, now);
  return std::exchange(lines_, {});
}

absl::Time SlowLog::next_due() const {
  absl::MutexLock lock(&mutex_);
  if (!lines_.empty()) return absl::InfinitePast();
  absl::Time due = absl::InfiniteFuture();
  for (const Share& share : shares_) {
    if (share.left_out > 0) due = std::min(due, share.window_end);
  }
  return due;
}

uint64_t SlowLog::count() const {
  absl::MutexLock lock(&mutex_);
  return count_;
}

std::vector<InvocationStatus> SlowLog::Recent() const {
  std::vector<InvocationStatus> recent;
  absl::MutexLock lock(&mutex_);
  for (const Share& share : shares_) {
    recent.insert(recent.end(), share.recent.rbegin(), share.recent.rend());
  }
  return recent;
}

}  // namespace internal
}  // namespace runloop

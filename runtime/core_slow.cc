// The slow-operation log of RuntimeCore: what the runtime thread tells it, and who writes it.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/core.h"

namespace runloop::internal {

InvocationStatus RuntimeCore::Describe(const Task& task) {
  InvocationStatus status{
      .operation = task.operation != nullptr ? task.operation->name() : std::string("(closure)"),
      .call_site = task.call_site.ToString()};
  if (task.trace_parent != nullptr) status.trace_id = std::string(TraceIdOf(*task.trace_parent));
  if (task.session != nullptr) {
    const Session::Info& info = task.session->info();
    status.session_id = info.id;
    status.client_name = info.client_name;
    status.pid = info.peer.pid;
    status.role = info.peer.role;
  }
  return status;
}

void RuntimeCore::NoteSlow(const Task& task, absl::Time began, absl::Time now) {
  NoteSlow(now - began, now, [&] {
    InvocationStatus slow = Describe(task);
    if (task.operation != nullptr) slow.queue_wait = began - task.posted_at;
    slow.execution = now - began;
    slow.ended = now;
    return slow;
  });
}

void RuntimeCore::NoteSlowClosures(CallSite call_site, int unlooked, absl::Duration took,
                                   absl::Time now) {
  NoteSlow(took, now, [&] {
    return InvocationStatus{
        .operation = unlooked == 1
                         ? "(closure)"
                         : absl::StrCat("(closures: ", unlooked, " in a row, the last of them)"),
        .call_site = call_site.ToString(),
        .execution = took,
        .ended = now};
  });
}

void RuntimeCore::NoteSlow(absl::Duration execution, absl::Time now,
                           absl::FunctionRef<InvocationStatus()> describe) {
  if (!slow_log_.Add(execution, now, describe)) return;
  const absl::Time due = slow_log_.next_due();
  absl::MutexLock lock(&service_mutex_);
  if (due >= slow_due_) return;
  slow_due_ = due;
  service_changed_.Signal();
}

void RuntimeCore::LogSlow(absl::Time now) {
  for (const std::string& line : slow_log_.TakeLines(now)) log_(LogSeverity::kWarning, line);
  const absl::Time due = slow_log_.next_due();
  absl::MutexLock lock(&service_mutex_);
  slow_due_ = std::min(slow_due_, due);
}

}  // namespace runloop::internal

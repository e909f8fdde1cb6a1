#include "runloop/runtime/lifecycle.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/closure_task.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/operation_registry.h"
#include "runloop/runtime/planted_bugs.h"
#include "runloop/runtime/session.h"

namespace runloop::internal {
namespace {

// What a hint when to try again lies between.
constexpr absl::Duration kShortestRetry = absl::Milliseconds(1);
constexpr absl::Duration kLongestRetry = absl::Seconds(1);
// A smaller bound on items is not passed by closures, at the price of slower posts.
constexpr int64_t kExactBelow = 4096;

}  // namespace

Lifecycle::Lifecycle(const WorkBounds& bounds,
                     std::function<std::string(const Account*, const Session*)> largest_holder)
    : bounds_(bounds),
      largest_holder_(std::move(largest_holder)),
      total_("runtime", bounds.total),
      closures_(std::make_shared<ClosurePool>(
          [this] { return bounds_.total.items - unfinished(); },
          bounds.total.items < kExactBelow ? 1 : ClosurePool::kCredit)) {}

absl::Status Lifecycle::RefuseClosure() {
  const InPlaceTask closure;  // stands for it
  return Full(total_, unfinished(), 0, closure);
}

Ledger::Counts Lifecycle::counts() const {
  Ledger::Counts counts = ledger_.counts();
  const ClosurePool::Counts closures = closures_->counts();
  counts.succeeded += closures.succeeded;
  counts.failed += closures.failed;
  counts.abandoned += closures.abandoned;
  counts.running += closures.started - closures.succeeded - closures.failed;
  counts.queued += closures.posted - closures.started - closures.abandoned;
  counts.admitted += closures.posted;
  return counts;
}

bool Lifecycle::idle() const {
  if (!ledger_.idle()) return false;
  const ClosurePool::Counts closures = closures_->counts();
  return closures.posted == closures.ended();
}

absl::Status Lifecycle::CheckRoom(const Task& task, int64_t room, int64_t items, int64_t bytes) {
  // What can never fit is told so, whatever else is in the way just now.
  const auto fits = [&](const Account* account) {
    return account == nullptr || static_cast<int64_t>(task.bytes) <= account->bound().bytes;
  };
  if (!fits(&total_)) return TooLarge(total_, task);
  if (task.session != nullptr) {
    if (!fits(task.session->user_.get())) return TooLarge(*task.session->user_, task);
    if (!fits(task.session->account_.get())) return TooLarge(*task.session->account_, task);
  }
  if (items > room || !total_.Fits(0, bytes)) return Full(total_, unfinished(), bytes, task);
  if (task.session != nullptr) {
    for (const Account* account : {task.session->user_.get(), task.session->account_.get()}) {
      if (account != nullptr && !account->Fits(items, bytes)) {
        return Full(*account, account->held().items, bytes, task);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Lifecycle::Admit(Task& task, const Task* instead_of) {
  const int64_t items = instead_of != nullptr ? 0 : 1;
  const int64_t bytes =
      static_cast<int64_t>(task.bytes) -
      (instead_of != nullptr ? static_cast<int64_t>(instead_of->bytes) : int64_t{0});
  const int64_t room = bounds_.total.items - unfinished();
  if (absl::Status status = CheckRoom(task, room, items, bytes); !status.ok()) return status;
  AdmitUnbounded(task);
  return absl::OkStatus();
}

Lifecycle::Group Lifecycle::BeginGroup(const Session& session) const {
  return {.session = &session, .room = bounds_.total.items - unfinished()};
}

absl::Status Lifecycle::Add(Task& task, Group& group) {
  const int64_t bytes = group.bytes + static_cast<int64_t>(task.bytes);
  if (absl::Status status = CheckRoom(task, group.room, group.items + 1, bytes); !status.ok()) {
    return status;
  }
  ++group.items;
  group.bytes = bytes;
  task.operation->statistics().admitted.fetch_add(1);
  return absl::OkStatus();
}

void Lifecycle::AdmitGroup(const Group& group) {
  ledger_.Admit(group.items);
  Hold(group.session, group.items, group.bytes);
}

Lifecycle::Names Lifecycle::NamesOf(const Account& account, const Task& task) {
  if (task.session != nullptr && &account == task.session->account_.get()) {
    return {.bound = "session", .in_words = "the session"};
  }
  const bool all = account.holder() == "runtime";
  return {.bound = account.holder(), .in_words = all ? "the runtime" : account.holder()};
}

absl::Status Lifecycle::TooLarge(const Account& account, const Task& task) {
  ledger_.Refuse();
  const Names names = NamesOf(account, task);
  const std::string limit = absl::StrCat(account.bound().bytes, " bytes");
  return MakeError(
      absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_MESSAGE_TOO_LARGE,
      absl::StrCat("this request has ", task.bytes, " bytes, and ", names.in_words, " may have ",
                   limit, " unfinished: it can never fit; raise the bound, or send less"),
      {{"bound", names.bound}, {"limit", limit}});
}

absl::Status Lifecycle::Full(const Account& account, int64_t items, int64_t bytes,
                             const Task& task) {
  ledger_.Refuse();
  const Bound& bound = account.bound();
  const bool by_bytes = bytes > 0 && account.held().bytes + bytes > bound.bytes;
  const Names names = NamesOf(account, task);
  const std::string limit =
      absl::StrCat(by_bytes ? bound.bytes : bound.items, by_bytes ? " bytes" : " invocations");
  const std::string held = by_bytes
                               ? absl::StrCat(account.held().bytes, " of ", bound.bytes, " bytes")
                               : absl::StrCat(items, " of ", bound.items, " invocations");
  const std::string holder =
      largest_holder_(&account == &total_ ? nullptr : &account, task.session.get());
  absl::Status status =
      MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
                absl::StrCat("the queue is full: ", names.in_words, " has ", held, " unfinished",
                             by_bytes ? absl::StrCat(", and this request has ", task.bytes) : "",
                             holder.empty() ? "" : absl::StrCat("; most are of ", holder),
                             "; try again when some have ended"),
                {{"bound", names.bound}, {"limit", limit}, {"holder", holder}});
  // By then an eighth of what is unfinished should have run.
  const absl::Duration hint =
      absl::Nanoseconds(mean_run_nanos_.load()) * std::max<int64_t>(1, items / 8);
  SetRetryDelay(status, std::clamp(hint, kShortestRetry, kLongestRetry));
  return status;
}

void Lifecycle::AdmitUnbounded(Task& task) {
  if (task.is_cleanup) return;
  if (task.operation != nullptr) task.operation->statistics().admitted.fetch_add(1);
  ledger_.Admit(1);
  Hold(task.session.get(), 1, static_cast<int64_t>(task.bytes));
}

void Lifecycle::Unadmit(Task& task) {
  // A newer one with its key may have ended it.
  if (!task.Leave(Task::State::kQueued, Task::State::kEnded) || task.is_cleanup) return;
  ledger_.Unadmit();
  if (task.session != nullptr) task.session->admitted_.fetch_sub(1);
  if (task.operation != nullptr) task.operation->statistics().admitted.fetch_sub(1);
  LetGo(task);
}

void Lifecycle::Hold(const Session* session, int64_t items, int64_t bytes) {
  if (bytes != 0) total_.Add(0, bytes);
  if (session == nullptr) return;
  session->admitted_.fetch_add(static_cast<uint64_t>(items));
  for (Account* account : {session->user_.get(), session->account_.get()}) {
    if (account != nullptr) account->Add(items, bytes);
  }
}

void Lifecycle::LetGo(Task& task) {
  const auto bytes = static_cast<int64_t>(task.bytes);
  if (task.session != nullptr) {
    if (!task.keeps_charge) LetGo(*task.session, 1, bytes);
  } else if (bytes != 0) {
    total_.Add(0, -bytes);
  }
}

void Lifecycle::LetGo(const Session& session, int64_t items, int64_t bytes) {
  if (bytes != 0) total_.Add(0, -bytes);
  for (Account* account : {session.user_.get(), session.account_.get()}) {
    if (account != nullptr) account->Add(-items, -bytes);
  }
}

bool Lifecycle::EndUnstarted(Task& task, OutcomeKind kind) {
  if (!task.Leave(Task::State::kQueued, Task::State::kEnded)) return false;
  if (Planted(PlantedBug::kRunAfterCancel)) task.state_ = Task::State::kQueued;
  if (task.is_cleanup) return true;
  if (task.session != nullptr) task.session->unstarted_.fetch_add(1);
  if (task.operation != nullptr) task.operation->statistics().not_started.fetch_add(1);
  LetGo(task);
  ledger_.EndQueued(kind);
  return true;
}

bool Lifecycle::Start(Task& task, absl::Time now) {
  if (!task.Leave(Task::State::kQueued, Task::State::kRunning)) return false;
  if (task.is_cleanup) return true;
  ledger_.Start();
  if (task.session != nullptr) task.session->started_.Add(1, true);
  if (task.operation != nullptr) {
    Operation::Statistics& statistics = task.operation->statistics();
    statistics.started.Add(1, true);
    statistics.queue_wait.Add(now - task.posted_at);
  }
  return true;
}

bool Lifecycle::Defer(Task& task) {
  // Counted first: whoever ends it from now on finds it deferred.
  ledger_.Defer();
  if (task.Leave(Task::State::kRunning, Task::State::kDeferred)) return true;
  ledger_.Undefer();
  return false;
}

bool Lifecycle::Finish(Task& task, bool succeeded, bool on_runtime_thread, bool* was_deferred) {
  bool deferred = false;
  if (!task.Leave(Task::State::kRunning, Task::State::kEnded)) {
    // It may have been on its way to being deferred.
    if (!task.Leave(Task::State::kDeferred, Task::State::kEnded)) return false;
    deferred = true;
  }
  if (was_deferred != nullptr) *was_deferred = deferred;
  if (task.is_cleanup) return true;
  if (task.session != nullptr) task.session->finished_.Add(1, on_runtime_thread);
  if (task.operation != nullptr) {
    Operation::Statistics& statistics = task.operation->statistics();
    (succeeded ? statistics.succeeded : statistics.failed).Add(1, on_runtime_thread);
  }
  LetGo(task);
  ledger_.Finish(succeeded ? OutcomeKind::kSucceeded : OutcomeKind::kFailed, deferred,
                 on_runtime_thread);
  return true;
}

std::shared_ptr<Account> Lifecycle::AccountOf(const std::string& holder) {
  absl::MutexLock lock(&mutex_);
  absl::erase_if(accounts_, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<Account>& known = accounts_[holder];
  std::shared_ptr<Account> account = known.lock();
  if (account == nullptr) {
    account = std::make_shared<Account>(holder, bounds_.user);
    known = account;
  }
  return account;
}

std::vector<BoundStatus> Lifecycle::GetBounds() const {
  const Ledger::Counts all = counts();
  std::vector<BoundStatus> bounds = {
      {.holder = total_.holder(),
       .held = {.items = static_cast<int64_t>(all.queued + all.running + all.deferred),
                .bytes = total_.held().bytes},
       .bound = bounds_.total}};
  absl::MutexLock lock(&mutex_);
  for (const auto& [holder, known] : accounts_) {
    if (const std::shared_ptr<Account> account = known.lock()) {
      bounds.push_back({.holder = holder, .held = account->held(), .bound = account->bound()});
    }
  }
  std::sort(bounds.begin() + 1, bounds.end(),
            [](const BoundStatus& a, const BoundStatus& b) { return a.holder < b.holder; });
  return bounds;
}

void Lifecycle::NoteRunTime(absl::Duration time) {
  const int64_t nanos = absl::ToInt64Nanoseconds(time);
  const int64_t mean = mean_run_nanos_.load(std::memory_order_relaxed);
  mean_run_nanos_.store(mean + (nanos - mean) / 8, std::memory_order_relaxed);
}

}  // namespace runloop::internal

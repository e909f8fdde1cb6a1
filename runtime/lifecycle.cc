#include "runloop/runtime/lifecycle.h"

#include <algorithm>
#include <limits>
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
  return Full(total_, unfinished(), {.more = {.items = 1}, .alone = {.items = 1}});
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

namespace {

std::string Say(const Bound& bound, bool items) {
  return items ? absl::StrCat(bound.items, " invocations") : absl::StrCat(bound.bytes, " bytes");
}

constexpr int64_t kEndless = std::numeric_limits<int64_t>::max();

Bound RoomIn(const Account* account) {
  if (account == nullptr) return {.items = kEndless, .bytes = kEndless};
  const Bound held = account->held();
  return {.items = account->bound().items - held.items,
          .bytes = account->bound().bytes - held.bytes};
}

}  // namespace

Lifecycle::Room Lifecycle::GetRoom(const Session* session) const {
  return {.all = {.items = bounds_.total.items - unfinished(), .bytes = RoomIn(&total_).bytes},
          .user = RoomIn(session == nullptr ? nullptr : session->user_.get()),
          .session = RoomIn(session == nullptr ? nullptr : session->account_.get())};
}

bool Lifecycle::HasRoom(const Room& room, int64_t items, int64_t bytes) {
  const auto in = [&](const Bound& bound) { return items <= bound.items && bytes <= bound.bytes; };
  return in(room.all) && in(room.user) && in(room.session);
}

absl::Status Lifecycle::WhyNoRoom(const Asking& asking) {
  const Session* const of = asking.session;
  const Account* const user = of == nullptr ? nullptr : of->user_.get();
  const Account* const session = of == nullptr ? nullptr : of->account_.get();
  // What can never fit is told so, whatever else is in the way just now.
  for (const Account* const account : {&std::as_const(total_), user, session}) {
    if (account == nullptr) continue;
    if ((asking.batch && asking.alone.items > account->bound().items) ||
        asking.alone.bytes > account->bound().bytes) {
      return TooLarge(*account, asking);
    }
  }
  const Bound& more = asking.more;
  const int64_t all = unfinished();
  const bool in_all =
      more.items <= bounds_.total.items - all && more.bytes <= RoomIn(&total_).bytes;
  for (const Account* const account : {user, session}) {
    if (!in_all || account == nullptr) continue;
    const Bound room = RoomIn(account);
    if (more.items > room.items || more.bytes > room.bytes) {
      return Full(*account, account->held().items, asking);
    }
  }
  return Full(total_, all, asking);
}

Lifecycle::Asking Lifecycle::AskFor(const Task& task, const Bound& more) {
  return {.session = task.session.get(),
          .more = more,
          .alone = {.items = 1, .bytes = static_cast<int64_t>(task.bytes)}};
}

absl::Status Lifecycle::Admit(Task& task, const Task* instead_of, Task::State as) {
  const int64_t items = instead_of != nullptr ? 0 : 1;
  const int64_t bytes =
      static_cast<int64_t>(task.bytes) -
      (instead_of != nullptr ? static_cast<int64_t>(instead_of->bytes) : int64_t{0});
  const Room room = GetRoom(task.session.get());
  if (!HasRoom(room, items, bytes))
    return WhyNoRoom(AskFor(task, {.items = items, .bytes = bytes}));
  AdmitUnbounded(task, as);
  return absl::OkStatus();
}

absl::Status Lifecycle::CheckBatch(const Session& session, const Bound& batch) {
  if (HasRoom(GetRoom(&session), batch.items, batch.bytes)) return absl::OkStatus();
  for (int64_t i = 1; i < batch.items; ++i) ledger_.Refuse();
  return WhyNoRoom({.session = &session, .more = batch, .alone = batch, .batch = true});
}

absl::Status Lifecycle::AdmitBatch(absl::Span<Task* const> tasks) {
  Group batch{.session = tasks.front()->session.get()};
  for (const Task* const task : tasks) {
    ++batch.items;
    batch.bytes += static_cast<int64_t>(task->bytes);
  }
  absl::Status room = CheckBatch(*batch.session, {.items = batch.items, .bytes = batch.bytes});
  if (!room.ok()) return room;
  for (const Task* const task : tasks) task->operation->statistics().admitted.fetch_add(1);
  AdmitGroup(batch, false);
  return absl::OkStatus();
}

Lifecycle::Group Lifecycle::BeginGroup(const Session& session) const {
  return {.session = &session, .room = GetRoom(&session)};
}

bool Lifecycle::HasRoom(const Task& task, const Group& group) const {
  return HasRoom(group.room, group.items + 1, group.bytes + static_cast<int64_t>(task.bytes));
}

absl::Status Lifecycle::Add(Task& task, Group& group) {
  if (!HasRoom(task, group)) {
    return WhyNoRoom(AskFor(
        task, {.items = group.items + 1, .bytes = group.bytes + static_cast<int64_t>(task.bytes)}));
  }
  ++group.items;
  group.bytes += static_cast<int64_t>(task.bytes);
  task.operation->statistics().admitted.fetch_add(1);
  return absl::OkStatus();
}

void Lifecycle::AdmitGroup(const Group& group, bool on_runtime_thread) {
  ledger_.Admit(group.items);
  Hold(group.session, group.items, group.bytes, on_runtime_thread);
}

Lifecycle::Names Lifecycle::NamesOf(const Account& account, const Session* session) {
  if (session != nullptr && &account == session->account_.get()) {
    return {.bound = "session", .in_words = "the session"};
  }
  const bool all = account.holder() == "runtime";
  return {.bound = account.holder(), .in_words = all ? "the runtime" : account.holder()};
}

absl::Status Lifecycle::TooLarge(const Account& account, const Asking& asking) {
  ledger_.Refuse();
  const Names names = NamesOf(account, asking.session);
  const bool by_items = asking.alone.items > account.bound().items;
  const std::string limit = Say(account.bound(), by_items);
  return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_MESSAGE_TOO_LARGE,
                   absl::StrCat("this ", asking.what(), " has ", Say(asking.alone, by_items),
                                ", and ", names.in_words, " may have ", limit,
                                " unfinished: it can never fit; raise the bound, or send less"),
                   {{"bound", names.bound}, {"limit", limit}});
}

absl::Status Lifecycle::Full(const Account& account, int64_t items, const Asking& asking) {
  ledger_.Refuse();
  const Bound& bound = account.bound();
  const Bound& more = asking.more;
  const bool by_items = more.bytes <= 0 || account.held().bytes + more.bytes <= bound.bytes;
  const Names names = NamesOf(account, asking.session);
  const std::string limit = Say(bound, by_items);
  const bool says_how_much = !by_items || asking.batch;
  const std::string holder =
      largest_holder_(&account == &total_ ? nullptr : &account, asking.session);
  absl::Status status =
      MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
                absl::StrCat("the queue is full: ", names.in_words, " has ",
                             by_items ? items : account.held().bytes, " of ", limit, " unfinished",
                             says_how_much ? absl::StrCat(", and this ", asking.what(), " has ",
                                                          Say(asking.alone, by_items))
                                           : "",
                             holder.empty() ? "" : absl::StrCat("; most are of ", holder),
                             "; try again when some have ended"),
                {{"bound", names.bound}, {"limit", limit}, {"holder", holder}});
  // By then an eighth of what is unfinished should have run.
  const absl::Duration hint =
      absl::Nanoseconds(mean_run_nanos_.load()) * std::max<int64_t>(1, items / 8);
  SetRetryDelay(status, std::clamp(hint, kShortestRetry, kLongestRetry));
  return status;
}

void Lifecycle::AdmitUnbounded(Task& task, Task::State as) {
  if (task.is_cleanup) return;
  if (task.operation != nullptr) task.operation->statistics().admitted.fetch_add(1);
  ledger_.Admit(1);
  if (as == Task::State::kDelayed) {
    ledger_.Delay();
    task.state_ = as;
  }
  Hold(task.session.get(), 1, static_cast<int64_t>(task.bytes), false);
}

void Lifecycle::Unadmit(Task& task) {
  // A newer one with its key may have ended it.
  if (task.Leave(Task::State::kDelayed, Task::State::kEnded)) {
    ledger_.Undelay();
  } else if (!task.Leave(Task::State::kQueued, Task::State::kEnded) || task.is_cleanup) {
    return;
  }
  ledger_.Unadmit();
  if (task.session != nullptr) task.session->admitted_.Subtract(1);
  if (task.operation != nullptr) task.operation->statistics().admitted.fetch_sub(1);
  LetGo(task, false);
}

void Lifecycle::Hold(const Session* session, int64_t items, int64_t bytes, bool on_runtime_thread) {
  if (bytes != 0) total_.Add(0, bytes, on_runtime_thread);
  if (session == nullptr) return;
  session->admitted_.Add(static_cast<uint64_t>(items), on_runtime_thread);
  for (Account* account : {session->user_.get(), session->account_.get()}) {
    if (account != nullptr) account->Add(items, bytes, on_runtime_thread);
  }
}

void Lifecycle::LetGo(Task& task, bool on_runtime_thread) {
  const auto bytes = static_cast<int64_t>(task.bytes);
  if (bytes != 0) total_.Remove(0, bytes, on_runtime_thread);
  if (task.session == nullptr) return;
  for (Account* account : {task.session->user_.get(), task.session->account_.get()}) {
    if (account != nullptr) account->Remove(1, bytes, on_runtime_thread);
  }
}

bool Lifecycle::Due(Task& task) {
  if (!task.Leave(Task::State::kDelayed, Task::State::kQueued)) return false;
  ledger_.Undelay();
  return true;
}

bool Lifecycle::EndUnstarted(Task& task, OutcomeKind kind) {
  if (task.Leave(Task::State::kDelayed, Task::State::kEnded)) {
    ledger_.Undelay();
  } else if (!task.Leave(Task::State::kQueued, Task::State::kEnded)) {
    return false;
  }
  if (Planted(PlantedBug::kRunAfterCancel) ||
      (Planted(PlantedBug::kTimerAfterCancel) && task.is_timer)) {
    task.state_ = Task::State::kQueued;
  }
  if (task.is_cleanup) return true;
  if (task.batch != nullptr) task.batch->NoteFailure(task.place_in_batch);
  if (task.session != nullptr) task.session->unstarted_.fetch_add(1);
  if (task.operation != nullptr) task.operation->statistics().not_started.fetch_add(1);
  LetGo(task, false);
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
  if (!succeeded && task.batch != nullptr) task.batch->NoteFailure(task.place_in_batch);
  if (task.session != nullptr) task.session->finished_.Add(1, on_runtime_thread);
  if (task.operation != nullptr) {
    Operation::Statistics& statistics = task.operation->statistics();
    (succeeded ? statistics.succeeded : statistics.failed).Add(1, on_runtime_thread);
  }
  LetGo(task, on_runtime_thread);
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
       .held = {.items =
                    static_cast<int64_t>(all.delayed + all.queued + all.running + all.deferred),
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

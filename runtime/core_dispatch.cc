// How work gets into RuntimeCore, in the queue or in place, and how it ends without having started.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/planted_bugs.h"
#include "runloop/runtime/strings.h"

namespace runloop::internal {
namespace {

bool NotStarted(const Task& task) {
  const Task::State state = task.state();
  return state == Task::State::kDelayed || state == Task::State::kQueued;
}

// Of a name that a caller gave, in an error.
constexpr size_t kLongestNameTold = 512;

absl::Status SessionEndedError(const Session& session) {
  return MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                   "the session has ended", {{"session", session.info().id}});
}

}  // namespace

absl::Status RuntimeCore::StoppedError() {
  return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_RUNTIME_STOPPED,
                   "the runtime has stopped and runs nothing more");
}

absl::Status RuntimeCore::Post(Task* task) {
  if (stopped()) {
    lifecycle_.Refuse();
    return StoppedError();
  }
  Chain chain;
  if (task->chains != nullptr) {
    chain = task->chains->front();
    if (ClosesCycle(chain)) {
      lifecycle_.Refuse();
      return DeadlockError(chain, id_, "(closure)");
    }
  }
  if (absl::Status admitted = lifecycle_.Admit(*task); !admitted.ok()) return admitted;
  if (Enqueue(task)) {
    if (!chain.empty()) PassOn(chain);
    return absl::OkStatus();
  }
  lifecycle_.Unadmit(*task);
  lifecycle_.Refuse();
  return StoppedError();
}

bool RuntimeCore::Enqueue(Task* task) {
  if (!queue_.Push(task)) return false;
  WakeLoop();
  return true;
}

void RuntimeCore::WakeLoop() {
  if (sleep_.NeedsWake()) {
    if (!started_.load(std::memory_order_acquire)) first_post_.store(clock_->Now());
    loop_->Wake();
    Watch();
  }
}

absl::StatusOr<const Operation*> RuntimeCore::FindOperation(std::string_view name) const {
  if (const Operation* operation = operations_.Find(name)) return operation;
  return MakeError(absl::StatusCode::kUnimplemented, v1::ERROR_REASON_UNKNOWN_OPERATION,
                   absl::StrCat("no operation '", View(name.substr(0, kLongestNameTold)),
                                "' is registered; `runloopctl operations` lists those that are"),
                   {{"operation", std::string(name.substr(0, kLongestNameTold))}});
}

absl::Status RuntimeCore::WhyClosed(const Session& session) const {
  if (stopped()) return StoppedError();
  if (draining_.load(std::memory_order_acquire)) {
    return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING,
                     "the runtime is draining and takes no new work; reconnect later");
  }
  return session.ended() ? SessionEndedError(session) : absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<OperationTask>> RuntimeCore::Dispatch(Call call) {
  absl::Status refusal = WhyClosed(*call.session);
  if (refusal.ok() && ClosesCycle(call.chain)) {
    refusal = DeadlockError(call.chain, id_, call.operation->name());
  }
  if (!refusal.ok()) {
    lifecycle_.Refuse();
    return refusal;
  }
  // A worker in a sandbox hosts no runtime that others wait for: its chain refuses its own
  // dispatch, and goes nowhere.
  if (!call.session->info().peer.role.empty()) call.chain.clear();
  const Chain chain = call.chain;
  const std::string key = call.coalesce_key;
  const bool delayed = call.delay > absl::ZeroDuration();
  const absl::Time due = clock_->Now() + (delayed ? call.delay : absl::ZeroDuration());
  const auto task = OperationTask::Make(shared_from_this(), std::move(call), due);
  std::shared_ptr<OperationTask> old;
  if (!key.empty()) old = task->session->FindKeyed(key);
  const bool replaces = old != nullptr && NotStarted(*old);
  if (absl::Status admitted =
          lifecycle_.Admit(*task, replaces ? old.get() : nullptr,
                           delayed ? Task::State::kDelayed : Task::State::kQueued);
      !admitted.ok()) {
    return admitted;
  }
  task->HoldForQueue(task);
  bool queued;
  if (delayed) {
    if (!key.empty()) {
      if (const auto before = task->session->ExchangeKeyed(key, task)) Supersede(*before);
    }
    // If it expires before it is due, that is the time to look at it.
    queued = AddDelayed(*task, std::min(due, task->deadline));
  } else if (key.empty()) {
    queued = Enqueue(task.get());
  } else {
    queued = EnqueueInstead(task->session->ExchangeKeyed(key, task), task.get());
  }
  if (!queued) {
    if (!key.empty()) task->session->ForgetKeyed(key, *task);
    lifecycle_.Unadmit(*task);
    lifecycle_.Refuse();
    task->Release();
    return StoppedError();
  }
  // A session that ended meanwhile may not have found it, nor may who superseded it.
  if (task->session->ended()) Cancel(*task, OutcomeKind::kAbandoned);
  if (delayed && task->state() == Task::State::kEnded && timers_.Take(*task)) task->Release();
  if (!chain.empty()) PassOn(chain);
  return task;
}

absl::Status RuntimeCore::RefuseBatch(absl::Span<const Call> calls) {
  absl::Status refusal = WhyClosed(*calls.front().session);
  if (refusal.ok()) refusal = CheckBatchSize(calls.size());
  for (const Call& call : calls) {
    if (!refusal.ok() ||
        (call.chain.empty() && call.coalesce_key.empty() && call.delay <= absl::ZeroDuration())) {
      continue;
    }
    refusal = MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                        "what is in a batch has no chain, no coalesce_key and no delay");
  }
  for (size_t i = 0; !refusal.ok() && i < calls.size(); ++i) lifecycle_.Refuse();
  return refusal;
}

absl::Status RuntimeCore::CheckBatch(absl::Span<const Call> calls) {
  if (absl::Status refusal = RefuseBatch(calls); !refusal.ok()) return refusal;
  Bound all{.items = static_cast<int64_t>(calls.size())};
  for (const Call& call : calls) all.bytes += static_cast<int64_t>(call.request_bytes);
  return lifecycle_.CheckBatch(*calls.front().session, all);
}

absl::StatusOr<std::vector<std::shared_ptr<OperationTask>>> RuntimeCore::DispatchBatch(
    std::vector<Call> calls, bool stop_at_failure) {
  const std::shared_ptr<Session> session = calls.front().session;
  if (absl::Status refusal = RefuseBatch(calls); !refusal.ok()) return refusal;
  const absl::Time now = clock_->Now();
  const auto batch = std::make_shared<TaskBatch>(stop_at_failure);
  std::vector<std::shared_ptr<OperationTask>> tasks;
  std::vector<Task*> in_order;
  tasks.reserve(calls.size());
  in_order.reserve(calls.size());
  for (Call& call : calls) {
    OperationTask& task =
        *tasks.emplace_back(OperationTask::Make(shared_from_this(), std::move(call), now));
    task.batch = batch;
    task.place_in_batch = static_cast<uint32_t>(in_order.size());
    in_order.push_back(&task);
  }
  if (absl::Status admitted = lifecycle_.AdmitBatch(in_order); !admitted.ok()) return admitted;
  for (size_t i = 0; i < tasks.size(); ++i) {
    tasks[i]->HoldForQueue(tasks[i]);
    TaskQueue::LinkAfter(*tasks[i], i == 0 ? nullptr : in_order[i - 1]);
  }
  if (queue_.Push(in_order.back(), in_order.front())) {
    WakeLoop();
    // If it ended meanwhile, they may not have been found.
    if (session->ended()) AbandonQueued(session);
    return tasks;
  }
  for (const std::shared_ptr<OperationTask>& task : tasks) {
    lifecycle_.Unadmit(*task);
    lifecycle_.Refuse();
    task->Release();
  }
  return StoppedError();
}

RuntimeCore::Group::Group(RuntimeCore& core, std::shared_ptr<Session> session, absl::Time now)
    : core_(core), session_(std::move(session)), now_(now) {}

absl::StatusOr<std::shared_ptr<OperationTask>> RuntimeCore::Group::Dispatch(Call call) {
  // The runtime thread begins on the first while others are taken in.
  constexpr int64_t kMost = 64;
  if (counts_.items == kMost) Flush();
  if (newest_ == nullptr) counts_ = core_.lifecycle_.BeginGroup(*session_);
  if (absl::Status closed = core_.WhyClosed(*session_); !closed.ok()) {
    core_.lifecycle_.Refuse();
    return closed;
  }
  call.session = session_;
  std::shared_ptr<OperationTask> task =
      OperationTask::Make(core_.shared_from_this(), std::move(call), now_);
  if (newest_ != nullptr && !core_.lifecycle_.HasRoom(*task, counts_)) {
    Flush();  // there may be room by now; and if not, a refusal is to say what is held
    counts_ = core_.lifecycle_.BeginGroup(*session_);
  }
  if (absl::Status admitted = core_.lifecycle_.Add(*task, counts_); !admitted.ok()) {
    return admitted;
  }
  task->HoldForQueue(task);
  if (oldest_ == nullptr) oldest_ = task.get();
  TaskQueue::LinkAfter(*task, newest_);
  newest_ = task.get();
  return task;
}

void RuntimeCore::Group::Flush() {
  Task* const newest = std::exchange(newest_, nullptr);
  Task* const oldest = std::exchange(oldest_, nullptr);
  if (newest == nullptr) return;
  core_.lifecycle_.AdmitGroup(counts_, core_.OnRuntimeThread());
  counts_ = {};
  if (core_.queue_.Push(newest, oldest)) {
    core_.WakeLoop();
    // If it ended meanwhile, they may not have been found.
    if (session_->ended()) core_.AbandonQueued(session_);
    return;
  }
  for (Task *task = newest, *before; task != nullptr; task = before) {
    before = TaskQueue::LinkedBefore(*task);
    if (core_.lifecycle_.EndUnstarted(*task, OutcomeKind::kAbandoned)) task->Skip(StoppedError());
    task->Release();
  }
}

bool RuntimeCore::EnqueueInstead(const std::shared_ptr<OperationTask>& old, Task* task) {
  if (old == nullptr || !lifecycle_.EndUnstarted(*old, OutcomeKind::kSuperseded)) {
    return Enqueue(task);
  }
  const bool was_delayed = timers_.Take(*old);
  const bool replaced = !was_delayed && queue_.Replace(*old, task, clock_->Now());
  const bool queued = replaced || queue_.Push(task);
  old->Skip(NeverRan(OutcomeKind::kSuperseded));
  if (replaced || was_delayed) old->Release();
  if (queued) WakeLoop();
  return queued;
}

void RuntimeCore::Supersede(OperationTask& old) {
  if (!lifecycle_.EndUnstarted(old, OutcomeKind::kSuperseded)) return;
  AfterEndUnstarted(old, NeverRan(OutcomeKind::kSuperseded));
}

absl::StatusOr<std::shared_ptr<OperationTask>> RuntimeCore::DispatchInPlace(Call call) {
  const auto task = OperationTask::Make(shared_from_this(), std::move(call), clock_->Now());
  if (absl::Status entered = EnterInPlace(*task); !entered.ok()) return entered;
  task->Run();
  AfterInPlace();
  return task;
}

absl::Status RuntimeCore::EnterInPlace(Task& task) {
  if (stopped()) {
    lifecycle_.Refuse();
    return StoppedError();
  }
  lifecycle_.AdmitUnbounded(task);
  lifecycle_.Start(task, clock_->Now());
  ++depth_;
  return absl::OkStatus();
}

void RuntimeCore::LeaveInPlace(Task& task, bool succeeded) {
  lifecycle_.Finish(task, succeeded, true);
  AfterInPlace();
}

void RuntimeCore::AfterInPlace() {
  if (--depth_ > 0) return;
  // A loop that ran inside it was told that there is nothing to do; whoever posted meanwhile relies
  // on its wake, even if what it posted has left the queue again.
  if (std::exchange(collected_nested_, false) || !sleep_.asleep() || !queue_.empty()) loop_->Wake();
  QuitIfDrained();
}

// ---- ending what has not started ----

absl::Status RuntimeCore::WhyNeverRan(const Task& task, OutcomeKind kind) {
  if (kind == OutcomeKind::kAbandoned && task.session != nullptr && task.session->ended()) {
    return MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                     "the session ended before it started; it never ran",
                     {{"session", task.session->info().id}});
  }
  return NeverRan(kind);
}

void RuntimeCore::AfterEndUnstarted(OperationTask& task, const absl::Status& why) {
  if (Planted(PlantedBug::kRunAfterCancel)) return task.Skip(why);
  // Else it is being popped, or posted. What is due goes from the one to the other.
  const bool was_queued = timers_.Take(task) || queue_.Take(task, clock_->Now());
  task.Skip(why);
  if (was_queued) task.Release();
  QuitIfDrained();
}

bool RuntimeCore::Cancel(OperationTask& task, OutcomeKind kind) {
  if (!lifecycle_.EndUnstarted(task, kind)) return false;
  AfterEndUnstarted(task, WhyNeverRan(task, kind));
  return true;
}

RuntimeCore::GivenUp RuntimeCore::GiveUp(OperationTask& task, OutcomeKind kind) {
  if (Cancel(task, kind)) return GivenUp::kNeverRan;
  if (!task.TryGiveUp()) return GivenUp::kEnded;
  lifecycle_.CountGivenUp();
  return GivenUp::kStillRunning;
}

void RuntimeCore::GiveUpEnded(Session& session, uint64_t number) {
  if (number != 0) session.handles_.GiveUp(*this, number);
}

bool RuntimeCore::ExpireClosure(Task& task) {
  if (!lifecycle_.EndUnstarted(task, OutcomeKind::kExpired)) return false;
  lifecycle_.CountStale(1);
  return true;
}

void RuntimeCore::EndQueued(OutcomeKind kind, const Lane* only,
                            absl::FunctionRef<bool(Task&)> wanted) {
  const absl::Time now = clock_->Now();
  const std::vector<Task*> ended = queue_.TakeIf(
      now, only, [&](Task& task) { return wanted(task) && lifecycle_.EndUnstarted(task, kind); });
  TellNeverRan(ended, kind);
}

void RuntimeCore::EndDelayed(OutcomeKind kind, const Session* only,
                             absl::FunctionRef<bool(Task&)> wanted) {
  TellNeverRan(
      timers_.TakeIf(
          only, [&](Task& task) { return wanted(task) && lifecycle_.EndUnstarted(task, kind); }),
      kind);
}

void RuntimeCore::TellNeverRan(const std::vector<Task*>& ended, OutcomeKind kind) {
  for (Task* const task : ended) {
    if (!Planted(PlantedBug::kLostOutcome)) task->Skip(WhyNeverRan(*task, kind));
    task->Release();
  }
  if (!ended.empty()) QuitIfDrained();
}

}  // namespace runloop::internal

#include "runloop/runtime/core.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runloop/runtime/epoll_loop.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/strings.h"

namespace runloop::internal {
namespace {

std::string RandomId() {
  std::random_device random;
  return absl::StrFormat("%08x%08x%08x%08x", random(), random(), random(), random());
}

// Clean-up: it is not bounded, and runs even if the runtime stops first.
class EndTask final : public Task {
 public:
  explicit EndTask(absl::AnyInvocable<void() &&> closure) : closure_(std::move(closure)) {}
  RunResult Run() override {
    std::move(closure_)();
    return RunResult::kSucceeded;
  }
  void Skip(OutcomeKind) override { std::move(closure_)(); }
  void Release() override { delete this; }

 private:
  absl::AnyInvocable<void() &&> closure_;
};

absl::Status StoppedError() {
  return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_RUNTIME_STOPPED,
                   "the runtime has stopped and runs nothing more");
}

}  // namespace

RuntimeCore::RuntimeCore(RuntimeOptions options)
    : operations_(std::move(options.operations)),
      max_queued_(options.max_queued),
      budget_(options.budget),
      stall_threshold_(options.stall_threshold),
      clock_(options.clock ? options.clock : Clock::Monotonic()),
      log_(options.log ? std::move(options.log) : StderrLog()),
      id_(RandomId()),
      start_time_(absl::Now()),
      loop_(options.loop ? std::move(options.loop) : NewEpollLoop()) {
  service_ = std::thread([this] { Serve(); });
}

RuntimeCore::~RuntimeCore() {
  // Shutdown has joined it, unless Create failed before there was a Runtime.
  if (service_.joinable()) Shutdown();
}

absl::Status RuntimeCore::Bind() {
  thread_id_.store(std::this_thread::get_id());
  return loop_->Attach([this](const DrainBudget& budget) { return RunSlice(budget); });
}

bool RuntimeCore::OnRuntimeThread() const {
  return thread_id_.load(std::memory_order_relaxed) == std::this_thread::get_id();
}

// ---- posting ----

absl::Status RuntimeCore::Post(Task* task) {
  if (stopped()) {
    ledger_.Refuse();
    return StoppedError();
  }
  const int64_t queued = ledger_.queued();
  if (queued >= max_queued_) {
    ledger_.Refuse();
    return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
                     absl::StrCat("the runtime's queue is full: ", queued, " of ", max_queued_,
                                  " tasks wait; try again when the runtime thread has caught up"),
                     {{"limit", absl::StrCat(max_queued_)}});
  }
  if (Enqueue(task)) return absl::OkStatus();
  ledger_.Refuse();
  return StoppedError();
}

bool RuntimeCore::Enqueue(Task* task) {
  // Counted first: once pushed, the task may end at any moment.
  ledger_.Admit();
  if (task->session != nullptr) task->session->queued_.fetch_add(1, std::memory_order_relaxed);
  const Operation* const operation = task->operation;
  if (operation != nullptr) {
    operation->statistics().queued.fetch_add(1, std::memory_order_relaxed);
  }
  if (!queue_.Push(task)) {
    ledger_.Unadmit();
    if (task->session != nullptr) task->session->queued_.fetch_sub(1, std::memory_order_relaxed);
    if (operation != nullptr) {
      operation->statistics().queued.fetch_sub(1, std::memory_order_relaxed);
    }
    return false;
  }
  // Pairs with the end of RunSlice: either the loop sees the task, or this sees the loop asleep.
  if (asleep_.load(std::memory_order_seq_cst) &&
      asleep_.exchange(false, std::memory_order_seq_cst)) {
    if (!started_.load(std::memory_order_acquire)) first_post_.store(clock_->Now());
    loop_->Wake();
    Watch();
  }
  return true;
}

absl::StatusOr<const Operation*> RuntimeCore::FindOperation(std::string_view name) const {
  if (const Operation* operation = operations_.Find(name)) return operation;
  return MakeError(absl::StatusCode::kUnimplemented, v1::ERROR_REASON_UNKNOWN_OPERATION,
                   absl::StrCat("no operation '", View(name),
                                "' is registered; `runloopctl operations` lists those that are"),
                   {{"operation", std::string(name)}});
}

absl::StatusOr<std::shared_ptr<OperationTask>> RuntimeCore::Dispatch(Call call) {
  if (stopped()) {
    ledger_.Refuse();
    return StoppedError();
  }
  if (draining_.load(std::memory_order_acquire)) {
    ledger_.Refuse();
    return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING,
                     "the runtime is draining and takes no new work; reconnect later");
  }
  if (call.session->ended()) {
    ledger_.Refuse();
    return MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                     "the session has ended");
  }
  auto task =
      std::make_shared<OperationTask>(shared_from_this(), *call.operation, std::move(call.session),
                                      std::move(call.request), call.deadline, std::move(call.done));
  task->HoldForQueue();
  if (absl::Status posted = Post(task.get()); !posted.ok()) {
    task->Release();
    return posted;
  }
  return task;
}

absl::Status RuntimeCore::DispatchInPlace(Call call) {
  if (absl::Status entered = EnterInPlace(); !entered.ok()) return entered;
  const auto task =
      std::make_shared<OperationTask>(shared_from_this(), *call.operation, std::move(call.session),
                                      std::move(call.request), call.deadline, std::move(call.done));
  task->in_place = true;
  task->TryStart();
  CountStart(*task, clock_->Now());
  if (task->Run() == Task::RunResult::kDeferred) ledger_.Defer();
  AfterInPlace();
  return absl::OkStatus();
}

absl::Status RuntimeCore::EnterInPlace() {
  if (stopped()) {
    ledger_.Refuse();
    return StoppedError();
  }
  ledger_.Admit();
  ledger_.Start();
  ++depth_;
  return absl::OkStatus();
}

void RuntimeCore::LeaveInPlace(bool failed) {
  CountEnd(nullptr, nullptr, !failed, false);
  AfterInPlace();
}

void RuntimeCore::AfterInPlace() {
  if (--depth_ > 0) return;
  // A loop that ran inside it was told that there is nothing to do.
  if (!queue_.empty()) loop_->Wake();
  QuitIfDrained();
}

bool RuntimeCore::EndQueued(Task& task, OutcomeKind kind) {
  if (!task.TryEnd()) return false;
  ledger_.EndQueued(kind);
  if (task.session != nullptr) {
    task.session->queued_.fetch_sub(1, std::memory_order_relaxed);
    task.session->finished_.fetch_add(1, std::memory_order_relaxed);
  }
  if (task.operation != nullptr) {
    Operation::Statistics& statistics = task.operation->statistics();
    statistics.queued.fetch_sub(1, std::memory_order_relaxed);
    statistics.not_started.fetch_add(1, std::memory_order_relaxed);
  }
  return true;
}

bool RuntimeCore::Cancel(OperationTask& task, OutcomeKind kind) {
  if (!EndQueued(task, kind)) return false;
  task.Skip(kind);
  return true;
}

// ---- running ----

bool RuntimeCore::RunSlice(const DrainBudget& asked) {
  if (depth_ > 0 || stopped()) return false;  // a loop nested in a task runs no other
  const DrainBudget budget{.time = std::min(asked.time, budget_.time),
                           .tasks = std::min(asked.tasks, budget_.tasks)};
  asleep_.store(false, std::memory_order_relaxed);
  if (!started_.exchange(true)) watched_.store(false);  // the service thread waits for another time
  Watch();
  const absl::Time begin = clock_->Now();
  absl::Time now = begin;
  for (int ran = 0;; ++ran) {
    if (ran > 0 && (ran >= budget.tasks || now - begin >= budget.time)) return true;
    const TaskQueue::Popped popped = queue_.Pop(now);
    if (popped.task != nullptr) {
      RunTask(*popped.task, now);
      if (stopped()) return false;
      now = clock_->Now();
      continue;
    }
    asleep_.store(true, std::memory_order_seq_cst);
    if (queue_.empty()) {
      QuitIfDrained();
      return false;
    }
    asleep_.store(false, std::memory_order_relaxed);
  }
}

void RuntimeCore::RunTask(Task& task, absl::Time now) {
  const bool abandoned = task.session != nullptr && task.session->ended();
  if (abandoned || task.deadline <= now) {
    const OutcomeKind kind = abandoned ? OutcomeKind::kAbandoned : OutcomeKind::kExpired;
    if (EndQueued(task, kind)) task.Skip(kind);
  } else if (task.TryStart()) {
    CountStart(task, now);
    {
      absl::MutexLock lock(&current_mutex_);
      current_ = {
          .active = true, .operation = task.operation, .session = task.session, .since = now};
    }
    ++depth_;
    const Task::RunResult result = task.Run();
    --depth_;
    if (task.operation != nullptr) {
      task.operation->statistics().run_time.Add(clock_->Now() - now);
    }
    std::shared_ptr<Session> session;  // released outside the lock
    {
      absl::MutexLock lock(&current_mutex_);
      current_.active = false;
      session = std::move(current_.session);
    }
    if (result == Task::RunResult::kDeferred) {
      ledger_.Defer();
    } else if (result != Task::RunResult::kCounted) {
      CountEnd(task.operation, task.session.get(), result == Task::RunResult::kSucceeded, false);
    }
  }
  task.Release();
}

void RuntimeCore::CountStart(Task& task, absl::Time now) {
  if (!task.in_place) ledger_.Start();  // else EnterInPlace has counted it
  if (task.session != nullptr) {
    task.session->running_.fetch_add(1, std::memory_order_relaxed);
    if (!task.in_place) task.session->queued_.fetch_sub(1, std::memory_order_relaxed);
  }
  if (task.operation != nullptr) {
    Operation::Statistics& statistics = task.operation->statistics();
    if (!task.in_place) statistics.queued.fetch_sub(1, std::memory_order_relaxed);
    statistics.queue_wait.Add(now - task.posted_at);
  }
}

void RuntimeCore::CountEnd(const Operation* operation, Session* session, bool succeeded,
                           bool was_deferred) {
  ledger_.Finish(succeeded ? OutcomeKind::kSucceeded : OutcomeKind::kFailed, was_deferred);
  if (session != nullptr) {
    session->running_.fetch_sub(1, std::memory_order_relaxed);
    session->finished_.fetch_add(1, std::memory_order_relaxed);
  }
  if (operation != nullptr) {
    Operation::Statistics& statistics = operation->statistics();
    (succeeded ? statistics.succeeded : statistics.failed).fetch_add(1, std::memory_order_relaxed);
  }
}

// ---- deferred completion ----

void RuntimeCore::AddDeferred(std::shared_ptr<OperationTask> task) {
  absl::MutexLock lock(&deferred_mutex_);
  const OperationTask* const key = task.get();
  deferred_.emplace(key, std::move(task));
}

void RuntimeCore::RemoveDeferred(const OperationTask& task) {
  std::shared_ptr<OperationTask> removed;  // released outside the lock
  {
    absl::MutexLock lock(&deferred_mutex_);
    const auto found = deferred_.find(&task);
    if (found == deferred_.end()) return;
    removed = std::move(found->second);
    deferred_.erase(found);
  }
  QuitIfDrained();
}

void RuntimeCore::AbortDeferred(const Session* session, const absl::Status& why) {
  std::vector<std::shared_ptr<OperationTask>> tasks;
  {
    absl::MutexLock lock(&deferred_mutex_);
    for (const auto& [key, task] : deferred_) {
      if (session == nullptr || task->session.get() == session) tasks.push_back(task);
    }
  }
  for (const auto& task : tasks) task->Finish(why);
}

// ---- sessions ----

std::shared_ptr<Session> RuntimeCore::OpenSession(Session::Info info) {
  absl::MutexLock lock(&sessions_mutex_);
  if (info.id.empty()) info.id = absl::StrCat("s", next_session_++);
  if (info.start_time == absl::UnixEpoch()) info.start_time = absl::Now();
  std::shared_ptr<Session> session(new Session(weak_from_this(), std::move(info)));
  sessions_.push_back(session);
  return session;
}

void RuntimeCore::SessionEnded(std::shared_ptr<Session> session) {
  // If the queue is closed, Shutdown closes the session.
  auto task =
      std::make_unique<EndTask>([this, session = std::move(session)] { CloseSession(*session); });
  if (Enqueue(task.get())) (void)task.release();
}

void RuntimeCore::RunAfterSessionEnd(absl::AnyInvocable<void() &&> closure) {
  auto task = std::make_unique<EndTask>([this, closure = std::move(closure)]() mutable {
    try {
      std::move(closure)();
    } catch (...) {
      (void)CurrentExceptionStatus(this);
    }
  });
  if (Enqueue(task.get())) {
    (void)task.release();
  } else {
    task->Run();  // the runtime has stopped
  }
}

void RuntimeCore::CloseSession(Session& session) {
  session.RunClosures();
  AbortDeferred(&session, MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                                    "the session ended before the operation finished",
                                    {{"session", session.info().id}}));
  absl::MutexLock lock(&sessions_mutex_);
  std::erase_if(sessions_, [&](const auto& open) { return open.get() == &session; });
}

// ---- life ----

absl::Status RuntimeCore::RunLoopUntilQuit() {
  if (!OnRuntimeThread()) {
    return absl::FailedPreconditionError(
        "the loop belongs to the runtime thread: run it on the thread that called Create");
  }
  if (stopped()) return StoppedError();
  return loop_->Run();
}

void RuntimeCore::RequestQuit() { loop_->Quit(); }

void RuntimeCore::BeginDrain() { draining_.store(true, std::memory_order_release); }

bool RuntimeCore::Drained() const {
  const Ledger::Counts counts = ledger_.counts();
  if (counts.queued != 0 || counts.running != 0 || counts.deferred != 0) return false;
  absl::MutexLock lock(&deferred_mutex_);
  return deferred_.empty();
}

void RuntimeCore::QuitIfDrained() {
  if (quit_if_drained_.load(std::memory_order_acquire) && Drained()) loop_->Quit();
}

Runtime::DrainResult RuntimeCore::Drain(absl::Duration timeout) {
  BeginDrain();
  const absl::Time deadline = clock_->Now() + timeout;
  quit_if_drained_.store(true, std::memory_order_release);
  {
    absl::MutexLock lock(&service_mutex_);
    drain_deadline_ = deadline;
    service_changed_.Signal();
  }
  while (!stopped() && !Drained() && clock_->Now() < deadline) {
    if (loop_->can_run()) {
      if (!loop_->Run().ok()) break;
    } else if (!RunSlice(budget_)) {
      break;  // only the loop's owner could go on
    }
  }
  Runtime::DrainResult result{.drained = Drained()};
  Shutdown();
  result.ledger = ledger_.counts();
  return result;
}

void RuntimeCore::Shutdown() {
  if (stopped_.exchange(true, std::memory_order_acq_rel)) return;
  ++depth_;  // from here on nothing of the queue starts, whatever loop the closures below run
  const absl::Time now = clock_->Now();
  queue_.Close(now);
  while (Task* const task = queue_.Pop(now).task) {
    if (EndQueued(*task, OutcomeKind::kAbandoned)) task->Skip(OutcomeKind::kAbandoned);
    task->Release();
  }
  std::vector<std::shared_ptr<Session>> sessions;
  {
    absl::MutexLock lock(&sessions_mutex_);
    sessions = sessions_;
  }
  for (auto session = sessions.rbegin(); session != sessions.rend(); ++session) {
    (*session)->ended_.store(true, std::memory_order_release);
    CloseSession(**session);
  }
  AbortDeferred(nullptr, MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_RUNTIME_STOPPED,
                                   "the runtime stopped before the operation finished"));
  // What handlers keep may lead back here: a completion, for one, that was never finished.
  for (const Operation* operation : operations_.List()) operation->DropHandler();
  loop_->Detach();
  {
    absl::MutexLock lock(&service_mutex_);
    service_stop_ = true;
    service_changed_.Signal();
  }
  if (service_.joinable()) service_.join();
}

// ---- looking ----

Runtime::Snapshot RuntimeCore::GetSnapshot() const {
  using State = Runtime::Snapshot::State;
  const absl::Time now = clock_->Now();
  Runtime::Snapshot snapshot;
  snapshot.loop = std::string(loop_->kind());
  snapshot.draining = draining_.load(std::memory_order_acquire);
  const absl::Time oldest = queue_.OldestAdmitted(now);
  if (oldest != absl::InfiniteFuture()) snapshot.oldest_wait = now - oldest;
  {
    absl::MutexLock lock(&current_mutex_);
    if (stopped()) {
      snapshot.state = State::kStopped;
    } else if (!started_.load(std::memory_order_acquire)) {
      snapshot.state = State::kNotStarted;
      snapshot.notice = NotStartedNotice(now);
    } else if (!current_.active) {
      snapshot.state = State::kIdle;
    } else {
      snapshot.current_age = now - current_.since;
      snapshot.current_operation = std::string(current_.name());
      if (current_.session) snapshot.current_session = current_.session->info().id;
      snapshot.state = State::kRunning;
      if (snapshot.current_age >= stall_threshold_) {
        snapshot.state = State::kStalled;
        snapshot.notice =
            absl::StrCat("the runtime thread is stalled: ", snapshot.current_operation,
                         " has been running for ", absl::FormatDuration(snapshot.current_age));
      }
    }
  }
  snapshot.ledger = ledger_.counts();
  {
    absl::MutexLock lock(&sessions_mutex_);
    snapshot.sessions.assign(sessions_.begin(), sessions_.end());
  }
  return snapshot;
}

}  // namespace runloop::internal

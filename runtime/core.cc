#include "runloop/runtime/core.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runloop/runtime/epoll_loop.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/planted_bugs.h"
#include "runloop/runtime/strings.h"
#include "runloop/v1/handles.pb.h"

namespace runloop::internal {
namespace {

// Of a name that a caller gave, in an error.
constexpr size_t kLongestNameTold = 512;

std::string RandomId() {
  std::random_device random;
  return absl::StrFormat("%08x%08x%08x%08x", random(), random(), random(), random());
}

// Where the handles of a runtime begin: elsewhere in each, so that one of a daemon that has gone is
// unknown to the next. Exact as a number of JSON, with a million handles and more to come.
Handle FirstHandle() {
  std::random_device random;
  return (Handle{random()} & 0x7fff'ffff) << 20;
}

// Not bounded, and runs even if the runtime stops first.
class CleanupTask final : public Task {
 public:
  explicit CleanupTask(absl::AnyInvocable<void() &&> closure) : closure_(std::move(closure)) {
    is_cleanup = true;
  }
  RunResult Run() override {
    std::move(closure_)();
    return RunResult::kSucceeded;
  }
  void Skip(const absl::Status&) override { std::move(closure_)(); }
  void Release() override { delete this; }

 private:
  absl::AnyInvocable<void() &&> closure_;
};

// The operations that every runtime has.
OperationRegistry WithOwnOperations(OperationRegistry operations) {
  operations
      .RegisterDeferred<v1::ReleaseRequest, v1::ReleaseResponse>(
          "runloop.v1.Handles/Release",
          [](OperationContext& context, const v1::ReleaseRequest& request,
             Completion<v1::ReleaseResponse> completion) {
            auto shared = std::make_shared<Completion<v1::ReleaseResponse>>(std::move(completion));
            absl::Status released =
                context.session()->Release(request.handle(), [shared](absl::Status closed) {
                  if (closed.ok()) {
                    shared->Finish(v1::ReleaseResponse());
                  } else {
                    shared->Finish(std::move(closed));
                  }
                });
            if (!released.ok()) shared->Finish(std::move(released));
          })
      .IgnoreError();  // the host has one of its own
  return operations;
}

// The runtime whose runtime thread this is.
thread_local RuntimeCore* runtime_of_this_thread = nullptr;

absl::Status SessionEndedError(const Session& session) {
  return MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                   "the session has ended", {{"session", session.info().id}});
}

absl::Status WhyNeverRan(const Task& task, OutcomeKind kind) {
  if (kind == OutcomeKind::kAbandoned && task.session != nullptr && task.session->ended()) {
    return MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                     "the session ended before it started; it never ran",
                     {{"session", task.session->info().id}});
  }
  return NeverRan(kind);
}

}  // namespace

RuntimeCore::RuntimeCore(RuntimeOptions options)
    : operations_(WithOwnOperations(std::move(options.operations))),
      budget_(options.budget),
      stall_threshold_(options.stall_threshold),
      close_timeout_(options.close_timeout),
      max_handles_(options.max_handles),
      clock_(options.clock ? options.clock : Clock::Monotonic()),
      log_(options.log ? std::move(options.log) : StderrLog()),
      id_(RandomId()),
      start_time_(absl::Now()),
      loop_(options.loop ? std::move(options.loop) : NewEpollLoop()),
      buffers_(std::make_shared<BufferRegistry>(options.buffer_bounds, FirstHandle())),
      lifecycle_(
          options.bounds,
          [this](const Account* among, const Session* asks) { return LargestHolder(among, asks); }),
      queue_(lifecycle_.closures().started()) {
  last_handle_ = FirstHandle();
  service_ = std::thread([this] { Serve(); });
}

RuntimeCore::~RuntimeCore() {
  // Shutdown has joined it, unless Create failed before there was a Runtime.
  if (service_.joinable()) Shutdown();
}

absl::Status RuntimeCore::Bind() {
  thread_id_.store(std::this_thread::get_id());
  runtime_of_this_thread = this;
  return loop_->Attach([this](const DrainBudget& budget) { return RunSlice(budget); });
}

bool RuntimeCore::OnRuntimeThread() const {
  return thread_id_.load(std::memory_order_relaxed) == std::this_thread::get_id();
}

RuntimeCore* RuntimeCore::OfThisThread() { return runtime_of_this_thread; }

// ---- posting ----

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
  const auto task = OperationTask::Make(shared_from_this(), std::move(call), clock_->Now());
  std::shared_ptr<OperationTask> old;
  if (!key.empty()) old = task->session->FindKeyed(key);
  const bool replaces = old != nullptr && old->state() == Task::State::kQueued;
  if (absl::Status admitted = lifecycle_.Admit(*task, replaces ? old.get() : nullptr);
      !admitted.ok()) {
    return admitted;
  }
  task->HoldForQueue(task);
  bool queued;
  if (key.empty()) {
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
  // A session that ended meanwhile may not have found it.
  if (task->session->ended()) Cancel(*task, OutcomeKind::kAbandoned);
  if (!chain.empty()) PassOn(chain);
  return task;
}

RuntimeCore::Group::Group(RuntimeCore& core, std::shared_ptr<Session> session)
    : core_(core), session_(std::move(session)) {}

absl::StatusOr<std::shared_ptr<OperationTask>> RuntimeCore::Group::Dispatch(Call call) {
  // The runtime thread begins on the first while others are taken in.
  constexpr int64_t kMost = 64;
  if (counts_.items == kMost) Flush();
  if (newest_ == nullptr) {
    now_ = core_.clock_->Now();
    counts_ = core_.lifecycle_.BeginGroup(*session_);
  }
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
  core_.lifecycle_.AdmitGroup(counts_);
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
  const bool replaced = queue_.Replace(*old, task, clock_->Now());
  const bool queued = replaced || queue_.Push(task);
  old->Skip(NeverRan(OutcomeKind::kSuperseded));
  if (replaced) old->Release();
  if (queued) WakeLoop();
  return queued;
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
  if (!sleep_.asleep() || !queue_.empty()) loop_->Wake();
  QuitIfDrained();
}

// ---- ending what has not started ----

void RuntimeCore::AfterEndUnstarted(OperationTask& task, const absl::Status& why) {
  if (Planted(PlantedBug::kRunAfterCancel)) return task.Skip(why);
  const bool was_queued = queue_.Take(task, clock_->Now());  // else it is being popped, or posted
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
  for (Task* const task : ended) {
    if (!Planted(PlantedBug::kLostOutcome)) task->Skip(WhyNeverRan(*task, kind));
    task->Release();
  }
  if (!ended.empty()) QuitIfDrained();
}

// ---- running ----

bool RuntimeCore::RunSlice(const DrainBudget& asked) {
  if (depth_ > 0 || stopped()) return false;  // a loop nested in a task runs no other
  const DrainBudget budget{.time = std::min(asked.time, budget_.time),
                           .tasks = std::min(asked.tasks, budget_.tasks)};
  sleep_.Awake();
  // The service thread waits for another time.
  if (!started_.load(std::memory_order_relaxed) && !started_.exchange(true)) watched_.store(false);
  Watch();
  const absl::Time begin = clock_->Now();
  absl::Time now = begin;
  for (int ran = 0;;) {
    if (ran > 0 && (ran >= budget.tasks || now - begin >= budget.time)) return true;
    TaskQueue::Next next;
    if (closures_ == nullptr) {
      next = queue_.Pop(now);
      closures_ = next.closures;
    }
    if (closures_ != nullptr) {
      ran += RunClosures(now, begin + budget.time, ran, budget.tasks - ran);
      if (stopped()) return false;
      continue;
    }
    if (next.task != nullptr) {
      const absl::Time before = now;
      RunTask(*next.task, now);
      ++ran;
      if (stopped()) return false;
      lifecycle_.NoteRunTime(now - before);
      continue;
    }
    if (spin_.Until([this] { return queue_.has_posts(); })) {
      now = clock_->Now();
      continue;
    }
    if (sleep_.Announce([this] { return queue_.empty(); })) {
      QuitIfDrained();
      return false;
    }
  }
}

void RuntimeCore::RunTask(Task& task, absl::Time& now) {
  const bool abandoned = task.session != nullptr && task.session->ended();
  if (abandoned || task.deadline <= now) {
    const OutcomeKind kind = abandoned ? OutcomeKind::kAbandoned : OutcomeKind::kExpired;
    if (lifecycle_.EndUnstarted(task, kind)) task.Skip(WhyNeverRan(task, kind));
    now = clock_->Now();
  } else if (lifecycle_.Start(task, now)) {
    current_.Set(task.operation, task.session.get(), now);
    ++depth_;
    running_ = &task;
    const Task::RunResult result = task.Run();
    running_ = nullptr;
    --depth_;
    current_.Clear();
    const absl::Time began = std::exchange(now, clock_->Now());
    if (task.operation != nullptr) task.operation->statistics().run_time.Add(now - began);
    if (result != Task::RunResult::kTold) {
      lifecycle_.Finish(task, result == Task::RunResult::kSucceeded, true);
    }
  } else if (task.operation == nullptr) {
    lifecycle_.CountStale(-1);
  }
  task.Release();
}

void RuntimeCore::RunCleanup(absl::AnyInvocable<void() &&> closure) {
  auto task = std::make_unique<CleanupTask>(std::move(closure));
  if (Enqueue(task.get())) (void)task.release();
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

bool RuntimeCore::Reached(DrainPhase phase) const {
  if (phase == DrainPhase::kWork) {
    return lifecycle_.idle() && deferred_.empty() && queue_.empty();
  }
  absl::MutexLock lock(&sessions_mutex_);
  return sessions_.empty();
}

void RuntimeCore::QuitIfDrained() {
  const DrainPhase phase = drain_phase_.load();
  if (phase != DrainPhase::kNone && Reached(phase)) loop_->Quit();
}

bool RuntimeCore::RunUntil(DrainPhase phase, absl::Time deadline) {
  drain_phase_.store(phase);
  {
    absl::MutexLock lock(&service_mutex_);
    drain_deadline_ = deadline;
    service_changed_.Signal();
  }
  while (!stopped() && !Reached(phase) && clock_->Now() < deadline) {
    if (loop_->can_run()) {
      if (!loop_->Run().ok()) break;
    } else if (!RunSlice(budget_)) {
      break;  // only the loop's owner could go on
    }
  }
  return Reached(phase);
}

Runtime::DrainResult RuntimeCore::Drain(absl::Duration timeout) {
  BeginDrain();
  const absl::Time deadline = clock_->Now() + timeout;
  Runtime::DrainResult result{.drained = RunUntil(DrainPhase::kWork, deadline)};
  if (!stopped()) {
    AbandonClosures();
    EndQueued(OutcomeKind::kAbandoned, nullptr, [](Task& task) { return !task.is_cleanup; });
    std::vector<std::shared_ptr<Session>> sessions;
    {
      absl::MutexLock lock(&sessions_mutex_);
      sessions = sessions_;
    }
    for (auto session = sessions.rbegin(); session != sessions.rend(); ++session) (*session)->End();
    sessions.clear();
    RunUntil(DrainPhase::kSessions, std::max(deadline, clock_->Now() + Runtime::kCloseGrace));
  }
  result.not_closed = Shutdown();
  result.drained = result.drained && result.not_closed == 0;
  result.ledger = lifecycle_.counts();
  return result;
}

size_t RuntimeCore::Shutdown() {
  if (stopped_.exchange(true, std::memory_order_acq_rel)) return 0;
  ++depth_;  // from here on nothing of the queue starts, whatever loop the closures below run
  const absl::Time now = clock_->Now();
  std::vector<std::shared_ptr<Session>> sessions;
  {
    absl::MutexLock lock(&sessions_mutex_);
    sessions.swap(sessions_);
  }
  for (const auto& session : sessions) session->ended_.store(true, std::memory_order_release);
  queue_.Close(now);
  AbandonClosures();
  while (Task* const task = queue_.Pop(now).task) {
    if (lifecycle_.EndUnstarted(*task, OutcomeKind::kAbandoned)) {
      task->Skip(StoppedError());
    }
    task->Release();
  }
  AbortDeferred(nullptr, MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_RUNTIME_STOPPED,
                                   "the runtime stopped before the operation finished"));
  size_t not_closed = 0;
  for (auto session = sessions.rbegin(); session != sessions.rend(); ++session) {
    not_closed += (*session)->handles_.DestroyAll();
  }
  // What handlers keep may lead back here: a completion, for one, that was never finished.
  for (const Operation* operation : operations_.List()) operation->DropHandler();
  buffers_->EndAll();
  loop_->Detach();
  lifecycle_.closures().Close();
  if (runtime_of_this_thread == this) runtime_of_this_thread = nullptr;
  {
    absl::MutexLock lock(&service_mutex_);
    service_stop_ = true;
    service_changed_.Signal();
  }
  if (service_.joinable()) service_.join();
  return not_closed;
}

}  // namespace runloop::internal

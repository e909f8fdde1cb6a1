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

}  // namespace

RuntimeCore::RuntimeCore(RuntimeOptions options)
    : operations_(WithOwnOperations(std::move(options.operations))),
      budget_(options.budget),
      stall_threshold_(options.stall_threshold),
      close_timeout_(options.close_timeout),
      max_handles_(options.max_handles),
      role_priority_(options.role_priority),
      clock_(options.clock ? options.clock : Clock::Monotonic()),
      log_(options.log ? std::move(options.log) : StderrLog()),
      id_(RandomId()),
      start_time_(absl::Now()),
      loop_(options.loop ? std::move(options.loop) : NewEpollLoop()),
      buffers_(std::make_shared<BufferRegistry>(options.buffer_bounds, FirstHandle())),
      hub_(operations_.ListTopics(), options.notification_bounds),
      lifecycle_(
          options.bounds,
          [this](const Account* among, const Session* asks) { return LargestHolder(among, asks); }),
      queue_(lifecycle_.closures().started()),
      slow_log_(options.slow_queue_wait, options.slow_execution) {
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
  const absl::Status attached =
      loop_->Attach([this](const DrainBudget& budget) { return RunSlice(budget); });
  if (!attached.ok()) return attached;
  // A loop counts by the kernel's clock: the time of any other is kept by the service thread.
  loop_keeps_time_ = clock_ == Clock::Monotonic() && loop_->WakeAt(absl::InfiniteFuture()).ok();
  return absl::OkStatus();
}

bool RuntimeCore::OnRuntimeThread() const {
  return thread_id_.load(std::memory_order_relaxed) == std::this_thread::get_id();
}

RuntimeCore* RuntimeCore::OfThisThread() { return runtime_of_this_thread; }

// ---- running ----

bool RuntimeCore::RunSlice(const DrainBudget& asked) {
  IntakeSource* const intake = intake_.load(std::memory_order_acquire);
  if (depth_ > 0 || stopped()) {  // a loop nested in a task runs no other
    if (intake != nullptr) {
      intake->Collect();
      collected_nested_ = true;
    }
    if (!timers_.rests()) collected_nested_ = true;
    return false;
  }
  const DrainBudget budget{.time = std::min(asked.time, budget_.time),
                           .tasks = std::min(asked.tasks, budget_.tasks)};
  sleep_.Awake();
  // The service thread waits for another time.
  if (!started_.load(std::memory_order_relaxed) && !started_.exchange(true)) watched_.store(false);
  Watch();
  const absl::Time begin = clock_->Now();
  absl::Time now = begin;
  if (intake != nullptr) intake->Collect();
  bool served = false;  // intake, which takes time of the slice, too
  for (int ran = 0;;) {
    if ((ran > 0 || served) && (ran >= budget.tasks || now - begin >= budget.time)) return true;
    served |= ServeIntake(now);
    TaskQueue::Next next;
    if (timers_.IsDue(now)) (void)JoinDue(now);
    // What has come may be urgent.
    if (closures_ != nullptr && queue_.others_have_posts()) queue_.Intake(now);
    if (closures_ == nullptr || queue_.urgent()) {
      next = queue_.Pop(now, closures_ != nullptr);
      if (next.closures != nullptr) closures_ = next.closures;
    }
    if (next.task == nullptr && closures_ != nullptr) {
      ran += RunClosures(now, begin + budget.time, ran, budget.tasks - ran);
      if (stopped()) return false;
      continue;
    }
    if (next.task != nullptr) {
      RunTask(*next.task, now);
      ++ran;
      if (stopped()) return false;
      continue;
    }
    if (intake != nullptr) {
      BeginIntake(*intake, now);
      served = true;
      if (queue_.has_posts()) {
        EndIntake(now);
        continue;
      }
    }
    if (spin_.Until(
            [&] { return queue_.has_posts() || (intake != nullptr && intake->HasWork()); })) {
      now = clock_->Now();
      serve_intake_at_ = absl::InfinitePast();
      continue;
    }
    if (sleep_.Announce([&] {
          return queue_.empty() && SleepUntilDue() &&
                 (intake == nullptr || intake->AnnounceSleep());
        })) {
      QuitIfDrained();
      return false;
    }
    serve_intake_at_ = absl::InfinitePast();
    if (!timers_.rests()) now = clock_->Now();
  }
}

bool RuntimeCore::ServeIntake(absl::Time& now) {
  IntakeSource* const intake = intake_.load(std::memory_order_relaxed);
  if (intake == nullptr || now < serve_intake_at_) return false;
  BeginIntake(*intake, now);
  EndIntake(now);
  return true;
}

void RuntimeCore::BeginIntake(IntakeSource& intake, absl::Time now) {
  intake.Serve(now);
  intake_turns_.store(intake_turns_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

void RuntimeCore::EndIntake(absl::Time& now) {
  // So often it costs little, and a message waits for no more tasks than it would in a queue.
  constexpr absl::Duration kEvery = absl::Microseconds(20);
  const absl::Time begin = std::exchange(now, clock_->Now());
  // Half of the time is for tasks, however much there is to take in.
  serve_intake_at_ = now + std::max(kEvery, now - begin);
}

absl::Status RuntimeCore::AddIntake(std::shared_ptr<IntakeSource> source) {
  absl::MutexLock lock(&intakes_mutex_);
  if (stopped()) return StoppedError();
  if (intake_.load() != nullptr) {
    return absl::AlreadyExistsError("another host of this runtime has one");
  }
  if (absl::Status wakes = loop_->WakeOn(source->wake_fd()); !wakes.ok()) return wakes;
  intake_.store(source.get());
  intakes_.push_back(std::move(source));
  return absl::OkStatus();
}

void RuntimeCore::RemoveIntake(IntakeSource& source) {
  absl::MutexLock lock(&intakes_mutex_);
  if (intake_.load() != &source) return;
  intake_.store(nullptr);
  loop_->StopWakingOn(source.wake_fd());
}

void RuntimeCore::RunTask(Task& task, absl::Time& now) {
  const bool abandoned = task.session != nullptr && task.session->ended();
  if (abandoned || task.deadline <= now) {
    const OutcomeKind kind = abandoned ? OutcomeKind::kAbandoned : OutcomeKind::kExpired;
    if (lifecycle_.EndUnstarted(task, kind)) task.Skip(WhyNeverRan(task, kind));
    now = clock_->Now();
  } else if (task.batch != nullptr && task.batch->StopsBefore(task.place_in_batch)) {
    if (lifecycle_.EndUnstarted(task, OutcomeKind::kCancelled)) task.Skip(BatchStopped());
    now = clock_->Now();
  } else if (lifecycle_.Start(task, now)) {
    current_.Set(
        task.operation, task.session.get(), task.call_site,
        task.trace_parent != nullptr ? PackTraceId(*task.trace_parent) : std::array<uint64_t, 2>{},
        now);
    ++depth_;
    running_ = &task;
    const Task::RunResult result = task.Run();
    running_ = nullptr;
    --depth_;
    current_.Clear();
    const absl::Time began = std::exchange(now, clock_->Now());
    if (task.operation != nullptr) task.operation->statistics().run_time.Add(now - began);
    NoteIfSlow(task, began, now);
    lifecycle_.NoteRunTime(now - began);
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
    const auto is_work = [](Task& task) { return !task.is_cleanup && !task.is_timer; };
    EndDelayed(OutcomeKind::kAbandoned, nullptr, is_work);
    EndQueued(OutcomeKind::kAbandoned, nullptr, is_work);
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
  const auto abandon = [this](Task& task) {
    if (lifecycle_.EndUnstarted(task, OutcomeKind::kAbandoned)) task.Skip(StoppedError());
    task.Release();
  };
  const std::vector<Task*> delayed = timers_.Close();
  queue_.Close(now);
  AbandonClosures();
  while (Task* const task = queue_.Pop(now).task) abandon(*task);
  for (Task* const task : delayed) abandon(*task);
  AbortDeferred(nullptr, MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_RUNTIME_STOPPED,
                                   "the runtime stopped before the operation finished"));
  size_t not_closed = 0;
  for (auto session = sessions.rbegin(); session != sessions.rend(); ++session) {
    not_closed += (*session)->handles_.DestroyAll();
  }
  // What handlers keep may lead back here: a completion, for one, that was never finished.
  for (const Operation* operation : operations_.List()) operation->DropHandler();
  buffers_->EndAll();
  hub_.Stop(StoppedError());
  // What ends here is handed out.
  if (IntakeSource* const intake = intake_.load()) {
    constexpr int kMostTurns = 1000;  // each takes some tenths of a millisecond at most
    for (int turn = 0; turn == 0 || (turn < kMostTurns && intake->HasWork()); ++turn) {
      intake->Serve(clock_->Now());
    }
  }
  {
    // None is added any more.
    absl::MutexLock lock(&intakes_mutex_);
    if (IntakeSource* const intake = intake_.load()) loop_->StopWakingOn(intake->wake_fd());
  }
  loop_->Detach();
  lifecycle_.closures().Close();
  if (runtime_of_this_thread == this) runtime_of_this_thread = nullptr;
  {
    absl::MutexLock lock(&service_mutex_);
    service_stop_ = true;
    service_changed_.Signal();
  }
  if (service_.joinable()) service_.join();
  LogSlow(absl::InfiniteFuture());
  // They may refer to this.
  intake_.store(nullptr);
  std::vector<std::shared_ptr<IntakeSource>> intakes;
  {
    absl::MutexLock lock(&intakes_mutex_);
    intakes.swap(intakes_);
  }
  return not_closed;
}

}  // namespace runloop::internal

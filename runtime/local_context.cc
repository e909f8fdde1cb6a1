#include "runloop/runtime/local_context.h"

#include <atomic>
#include <stop_token>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runloop/runtime/adaptive_spin.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/local_buffers.h"
#include "runloop/runtime/local_subscription.h"

namespace runloop {
namespace internal {

absl::Status PostTask(RuntimeCore& core, Task* task) { return core.Post(task); }
ClosureNode* TakeClosureNode(RuntimeCore& core) { return core.TakeClosureNode(); }
absl::Status WhyClosureRefused(RuntimeCore& core) { return core.WhyClosureRefused(); }
absl::Status PostClosureNode(RuntimeCore& core, ClosureNode* node) {
  return core.PostClosure(node);
}
bool IsRuntimeThread(const RuntimeCore& core) { return core.OnRuntimeThread(); }
absl::Status EnterInPlace(RuntimeCore& core, Task& task) { return core.EnterInPlace(task); }
void LeaveInPlace(RuntimeCore& core, Task& task, bool succeeded) {
  core.LeaveInPlace(task, succeeded);
}

void SetChain(Task& task) {
  Chain chain = CurrentChain();
  if (chain.empty()) return;
  task.chains = std::make_unique<std::vector<Chain>>();
  task.chains->push_back(std::move(chain));
}

ClosureWait::ClosureWait(RuntimeCore& core, Task& task, absl::FunctionRef<void()> reference,
                         std::function<void()> unreference) {
  if (RuntimeCore::OfThisThread() == nullptr) return;
  reference();
  const std::shared_ptr<void> kept(
      nullptr, [unreference = std::move(unreference)](void*) { unreference(); });
  scope_.emplace(absl::StrCat("a closure of runtime ", core.id()),
                 [weak = core.weak_from_this(), &task, kept](Chain chain) {
                   if (const std::shared_ptr<RuntimeCore> other = weak.lock()) {
                     other->AlsoWaitsForClosure(task, std::move(chain));
                   }
                 });
}

absl::Status CurrentExceptionStatus() {
  std::string text = "an exception that is not a std::exception";
  try {
    throw;
  } catch (const std::exception& exception) {
    text = exception.what();
  } catch (...) {
  }
  return MakeError(absl::StatusCode::kInternal, v1::ERROR_REASON_HANDLER_THREW,
                   absl::StrCat("threw: ", text));
}

void LogClosureThrew(RuntimeCore& core) {
  core.Log(LogSeverity::kError,
           absl::StrCat("a closure on the runtime thread ", CurrentExceptionStatus().message()));
}

void BlockingWait::Notify() {
  // Sequentially consistent: either this sees that the caller sleeps, or that sees that it is done.
  done_.store(true);
  if (!sleeps_.load()) return;
  absl::MutexLock lock(&mutex_);
  changed_.Signal();
}

bool BlockingWait::Wait(RuntimeCore& core, absl::Duration timeout) {
  const absl::Time deadline = core.clock().Now() + timeout;
  thread_local AdaptiveSpin spin;
  if (spin.Until([this] { return done_.load(std::memory_order_acquire); })) return true;
  absl::MutexLock lock(&mutex_);
  sleeps_.store(true);
  while (!done_.load() && core.clock().Now() < deadline) {
    core.clock().WaitUntil(&mutex_, &changed_, deadline);
  }
  return done_.load();
}

absl::Status TimedOut(RuntimeCore& core, Task& task, absl::Duration timeout) {
  if (core.ExpireClosure(task)) return NeverRan(OutcomeKind::kExpired);
  if (task.state() == Task::State::kEnded) return absl::OkStatus();
  core.lifecycle().CountGivenUp();
  return MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                   absl::StrCat("not finished after ", absl::FormatDuration(timeout),
                                "; it had started and runs on"));
}

absl::Status NeverRan(OutcomeKind kind) {
  switch (kind) {
    case OutcomeKind::kCancelled:
      return MakeError(absl::StatusCode::kCancelled, v1::ERROR_REASON_CANCELLED,
                       "cancelled before it started; it never ran");
    case OutcomeKind::kExpired:
      return MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_EXPIRED,
                       "the deadline passed before it started; it never ran");
    case OutcomeKind::kSuperseded:
      return MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SUPERSEDED,
                       "a newer dispatch with the same coalesce_key took its place; it never ran");
    default:
      return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_RUNTIME_STOPPED,
                       "the runtime ended before it started; it never ran");
  }
}

namespace {

// Ends the session when the last context is gone and the last invocation has its outcome.
struct SessionUse {
  explicit SessionUse(std::shared_ptr<Session> used) : session(std::move(used)) {}
  ~SessionUse() { session->End(); }
  const std::shared_ptr<Session> session;
};

// What an Invocation of the in-process path shares with its task.
class LocalInvocation final : public InvocationState, public OutcomeSink {
 public:
  LocalInvocation(std::shared_ptr<RuntimeCore> core, std::shared_ptr<SessionUse> use)
      : core_(std::move(core)), use_(std::move(use)) {}

  // Before anybody but the task knows of this.
  void SetTask(std::weak_ptr<OperationTask> task) { task_ = std::move(task); }
  // It was refused. The thread that dispatches it, as refused.
  void Refuse(absl::Status why) {
    refused_ = true;
    use_ = nullptr;
    Finish(std::move(why));
  }
  bool refused() const { return refused_; }
  void Deliver(std::shared_ptr<OperationTask> task) override {
    const std::shared_ptr<SessionUse> used = std::move(use_);
    absl::StatusOr<std::unique_ptr<google::protobuf::Message>> outcome = task->TakeOutcome();
    if (!outcome.ok()) {
      // It may have ended before Stop has said so.
      const bool left =
          stopped_.load() && ReasonOf(outcome.status()) == v1::ERROR_REASON_STILL_RUNNING;
      Finish(left ? StoppedWhileRunning(task->operation->name()) : outcome.status());
    } else {
      Finish(task->reply_wanted() ? Reply{.message = *std::move(outcome)} : Reply());
    }
  }
  void Cancel() override {
    if (const std::shared_ptr<OperationTask> task = task_.lock()) core_->Cancel(*task);
  }
  void Stop() override {
    const std::shared_ptr<OperationTask> task = task_.lock();
    stopped_.store(true);
    if (task == nullptr ||
        core_->GiveUp(*task, OutcomeKind::kCancelled) != RuntimeCore::GivenUp::kStillRunning) {
      return;
    }
    Finish(StoppedWhileRunning(task->operation->name()));
  }
  // The caller's time is over. True: it has an outcome, or gets it just now.
  bool GiveUp() {
    const std::shared_ptr<OperationTask> task = task_.lock();
    return task == nullptr ||
           core_->GiveUp(*task, OutcomeKind::kExpired) != RuntimeCore::GivenUp::kStillRunning;
  }
  void AlsoWaits(Chain chain) override {
    if (const std::shared_ptr<OperationTask> task = task_.lock()) {
      core_->AlsoWaits(*task, std::move(chain));
    }
  }
  bool WaitWouldDeadlock() const override { return core_->OnRuntimeThread(); }

 private:
  const std::shared_ptr<RuntimeCore> core_;
  std::shared_ptr<SessionUse> use_;  // until it has its outcome
  std::weak_ptr<OperationTask> task_;
  std::atomic<bool> stopped_{false};  // set before it is given up for this
  bool refused_ = false;
};

// The in-process way to a runtime: messages move as they are.
class LocalTarget final : public DispatchTarget {
 public:
  LocalTarget(std::shared_ptr<RuntimeCore> core, std::string client_name, Priority priority)
      : core_(std::move(core)),
        use_(std::make_shared<SessionUse>(core_->OpenSession({.client_name = std::move(client_name),
                                                              .transport = "local",
                                                              .in_process = true,
                                                              .priority = priority}))),
        buffers_(core_->buffers().shared_from_this(), use_->session) {}

  std::shared_ptr<InvocationState> Dispatch(Call call) override {
    return DispatchWithRoom(std::move(call));
  }

  std::vector<std::shared_ptr<InvocationState>> DispatchBatch(std::vector<Call> calls,
                                                              bool stop_at_failure) override {
    Invocations invocations;
    if (calls.front().when_full != WhenFull::kWait || OnARuntimeThread()) {
      invocations = DispatchBatchLocal(std::move(calls), stop_at_failure);
    } else {
      const absl::Time deadline = Clock::Monotonic()->Now() + calls.front().timeout;
      invocations = TryUntil(deadline, [&] {
        std::vector<Call> copies;
        for (const Call& call : calls) copies.push_back(CopyOf(call, deadline));
        return DispatchBatchLocal(std::move(copies), stop_at_failure);
      });
    }
    return {invocations.begin(), invocations.end()};
  }

  absl::StatusOr<Reply> DispatchBlocking(Call call) override {
    if (call.stop_token.stop_requested()) return StoppedBefore();
    if (call.delay > absl::ZeroDuration()) return NoDelayWhenBlocking();
    if (core_->OnRuntimeThread()) return DispatchInPlace(std::move(call));
    const absl::Time deadline = Clock::Monotonic()->Now() + call.timeout;
    call.chain = CurrentChain();
    const std::stop_token stop_token = call.stop_token;
    const std::shared_ptr<LocalInvocation> invocation = DispatchWithRoom(std::move(call));
    const std::stop_callback on_stop(stop_token, [&] { invocation->Stop(); });
    const WaitScope wait(absl::StrCat("an operation of runtime ", core_->id()),
                         [weak = std::weak_ptr<LocalInvocation>(invocation)](Chain chain) {
                           if (const auto waited_for = weak.lock()) {
                             waited_for->AlsoWaits(std::move(chain));
                           }
                         });
    thread_local AdaptiveSpin spin;
    (void)spin.Until([&] { return invocation->done(); });
    absl::StatusOr<Reply> reply = invocation->AwaitReply(deadline - Clock::Monotonic()->Now());
    if (!absl::IsDeadlineExceeded(reply.status()) ||
        ReasonOf(reply.status()) != v1::ERROR_REASON_STILL_RUNNING) {
      return reply;
    }
    if (!invocation->GiveUp()) return reply;
    return invocation->AwaitReply(absl::InfiniteDuration());
  }

  absl::StatusOr<Buffer> NewBuffer(size_t size) override { return buffers_.New(size); }
  absl::StatusOr<Buffer> OpenBuffer(v1::BufferRef ref) override {
    return buffers_.Open(std::move(ref));
  }
  absl::Status Grant(const Buffer&, const std::string&, BufferAccess) override {
    return absl::FailedPreconditionError(
        "a buffer of the host's own process cannot be granted: it is no shared memory");
  }
  absl::StatusOr<uint64_t> SendDescriptor(int fd) override { return buffers_.SendDescriptor(fd); }
  std::string SessionId() override { return use_->session->info().id; }
  absl::StatusOr<std::shared_ptr<SubscriptionState>> Subscribe(
      SubscriptionState::Call call) override {
    return SubscribeLocally(core_, use_->session, std::move(call));
  }

 private:
  using Invocations = std::vector<std::shared_ptr<LocalInvocation>>;

  // With WhenFull::kWait, tries again while a bound stands in the way and the timeout allows.
  std::shared_ptr<LocalInvocation> DispatchWithRoom(Call call) {
    if (call.when_full != WhenFull::kWait || OnARuntimeThread()) {
      return DispatchLocal(std::move(call));
    }
    const absl::Time deadline = Clock::Monotonic()->Now() + call.timeout;
    return TryUntil(deadline, [&] { return Invocations{DispatchLocal(CopyOf(call, deadline))}; })
        .front();
  }

  // `attempt` gives invocations that are refused together or not at all.
  template <typename Attempt>
  static Invocations TryUntil(absl::Time deadline, Attempt attempt) {
    while (true) {
      Invocations invocations = attempt();
      if (!invocations.front()->refused()) return invocations;
      const absl::Status refusal = invocations.front()->Await(absl::ZeroDuration());
      const absl::Duration delay = RetryDelayOf(refusal).value_or(absl::Milliseconds(10));
      if (ReasonOf(refusal) != v1::ERROR_REASON_QUEUE_FULL ||
          Clock::Monotonic()->Now() + delay >= deadline) {
        return invocations;
      }
      absl::SleepFor(delay);
    }
  }

  // To be tried once more.
  static Call CopyOf(const Call& call, absl::Time deadline) {
    Call copy{.operation = call.operation,
              .request = std::unique_ptr<google::protobuf::Message>(call.request->New()),
              .reply_wanted = call.reply_wanted,
              .reply_type = call.reply_type,
              .timeout = deadline - Clock::Monotonic()->Now(),
              .delay = call.delay,
              .coalesce_key = call.coalesce_key,
              .when_full = WhenFull::kFail,
              .chain = call.chain,
              .call_site = call.call_site,
              .trace_parent = Copy(call.trace_parent)};
    copy.request->CopyFrom(*call.request);
    return copy;
  }

  Invocations DispatchBatchLocal(std::vector<Call> calls, bool stop_at_failure) {
    Invocations invocations;
    absl::Status refusal;
    std::vector<RuntimeCore::Call> prepared;
    for (Call& call : calls) {
      invocations.push_back(std::make_shared<LocalInvocation>(core_, use_));
      absl::StatusOr<RuntimeCore::Call> one = Prepare(call, invocations.back());
      refusal.Update(one.status());
      if (refusal.ok()) prepared.push_back(*std::move(one));
    }
    if (refusal.ok()) {
      absl::StatusOr<std::vector<std::shared_ptr<OperationTask>>> tasks =
          core_->DispatchBatch(std::move(prepared), stop_at_failure);
      refusal = tasks.status();
      for (size_t i = 0; refusal.ok() && i < tasks->size(); ++i) {
        invocations[i]->SetTask((*tasks)[i]);
      }
    }
    for (const auto& invocation : invocations) {
      if (!refusal.ok()) invocation->Refuse(refusal);
    }
    return invocations;
  }

  std::shared_ptr<LocalInvocation> DispatchLocal(Call call) {
    auto invocation = std::make_shared<LocalInvocation>(core_, use_);
    absl::StatusOr<RuntimeCore::Call> prepared = Prepare(call, invocation);
    if (!prepared.ok()) {
      invocation->Refuse(prepared.status());
      return invocation;
    }
    absl::StatusOr<std::shared_ptr<OperationTask>> task = core_->Dispatch(*std::move(prepared));
    if (task.ok()) {
      invocation->SetTask(*task);
    } else {
      invocation->Refuse(task.status());
    }
    return invocation;
  }

  absl::StatusOr<Reply> DispatchInPlace(Call call) {
    auto invocation = std::make_shared<LocalInvocation>(core_, use_);
    absl::StatusOr<RuntimeCore::Call> prepared = Prepare(call, invocation);
    if (!prepared.ok()) return prepared.status();
    absl::StatusOr<std::shared_ptr<OperationTask>> ran =
        core_->DispatchInPlace(*std::move(prepared));
    if (!ran.ok()) return ran.status();
    // What it makes from now on nobody would hear of.
    if (!invocation->done() &&
        core_->GiveUp(**ran, OutcomeKind::kCancelled) == RuntimeCore::GivenUp::kStillRunning) {
      return MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                       absl::StrCat((*ran)->operation->name(),
                                    " has run and finishes later, and the runtime thread cannot "
                                    "wait for it; use DispatchAsync and Watch"));
    }
    while (!invocation->done()) std::this_thread::yield();  // another thread is giving it just now
    return invocation->AwaitReply(absl::ZeroDuration());
  }

  absl::StatusOr<RuntimeCore::Call> Prepare(Call& call,
                                            const std::shared_ptr<LocalInvocation>& invocation) {
    absl::StatusOr<const Operation*> operation = core_->FindOperation(call.operation);
    if (!operation.ok()) return operation.status();
    if (call.request->GetDescriptor() != (*operation)->method().input_type()) {
      return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                       absl::StrCat(call.operation, " takes a ",
                                    (*operation)->method().input_type()->full_name(), ", not a ",
                                    call.request->GetTypeName()));
    }
    if (call.reply_type != nullptr && call.reply_type != (*operation)->method().output_type()) {
      return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                       absl::StrCat(call.operation, " replies with a ",
                                    (*operation)->method().output_type()->full_name(), ", not a ",
                                    call.reply_type->full_name()));
    }
    if (absl::Status key = CheckCoalesceKey(call.coalesce_key); !key.ok()) return key;
    if (absl::Status trace = CheckTraceParent(TextOf(call.trace_parent)); !trace.ok()) return trace;
    return RuntimeCore::Call{.operation = *operation,
                             .request = std::move(call.request),
                             .session = use_->session,
                             .deadline = call.timeout == absl::InfiniteDuration()
                                             ? absl::InfiniteFuture()
                                             : core_->clock().Now() + call.timeout,
                             .delay = call.delay,
                             .coalesce_key = std::move(call.coalesce_key),
                             .chain = std::move(call.chain),
                             .call_site = call.call_site,
                             .trace_parent = std::move(call.trace_parent),
                             .reply_wanted = call.reply_wanted,
                             .sink = invocation};
  }

  const std::shared_ptr<RuntimeCore> core_;
  const std::shared_ptr<SessionUse> use_;
  LocalBuffers buffers_;
};

}  // namespace

absl::Status NoDelayWhenBlocking() {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                   "a blocking call takes no delay: use DispatchAfter, and await it");
}

}  // namespace internal

absl::Status LocalRuntimeContext::PublishMessage(
    std::string_view topic, std::shared_ptr<const google::protobuf::Message> message) const {
  return core_->hub().Publish(topic, std::move(message));
}

bool LocalRuntimeContext::OnRuntimeThread() const { return core_->OnRuntimeThread(); }

absl::StatusOr<Timer> LocalRuntimeContext::StartTimer(absl::AnyInvocable<void()> closure,
                                                      absl::Duration delay,
                                                      absl::Duration period) const {
  absl::StatusOr<std::shared_ptr<internal::TimerTask>> timer =
      core_->StartTimer(std::move(closure), delay, period, priority_);
  if (!timer.ok()) return timer.status();
  return Timer(core_, *std::move(timer));
}

RuntimeContext LocalRuntimeContext::AsRuntimeContext(std::string client_name) const {
  return RuntimeContext(
      std::make_shared<internal::LocalTarget>(core_, std::move(client_name), priority_));
}

}  // namespace runloop

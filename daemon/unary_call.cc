#include "runloop/daemon/unary_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {

namespace {

// What expires before it starts has its own outcome, which the runtime gives at the deadline; only
// after that is the rest known to be running.
constexpr absl::Duration kGrace = absl::Milliseconds(20);

}  // namespace

using internal::OperationTask;
using internal::RuntimeCore;

void UnaryCall::Start(RuntimeCore::Call call, bool watch_deadline) {
  {
    absl::MutexLock lock(&mutex_);
    if (finished_) return;
  }
  const absl::Time deadline = call.deadline;
  call.done = [self = shared_from_this()](Outcome outcome) {
    ReplyThread& replies = *self->replies_;
    replies.Post([self, outcome = std::move(outcome)]() mutable {
      self->Complete(std::move(outcome), true);
    });
  };
  const absl::StatusOr<std::shared_ptr<OperationTask>> task = core_->Dispatch(std::move(call));
  if (!task.ok()) {
    Complete(task.status(), false);
    return;
  }
  bool cancelled;
  {
    absl::MutexLock lock(&mutex_);
    cancelled = cancelled_;
    task_ = *task;
    if (!finished_) {
      if (watch_deadline && deadline != absl::InfiniteFuture()) {
        alarm_ = std::make_unique<grpc::Alarm>();
        alarm_->Set(absl::ToChronoTime(absl::Now() + (deadline - core_->clock().Now()) + kGrace),
                    [weak = weak_from_this()](bool due) {
                      const std::shared_ptr<UnaryCall> self = weak.lock();
                      if (due && self != nullptr) self->OnDeadline();
                    });
      }
    }
  }
  if (cancelled) GiveUp(**task, OutcomeKind::kCancelled);  // meanwhile
}

void UnaryCall::GiveUp(OperationTask& task, OutcomeKind kind) {
  // Nobody is there for the reply, even if there is one.
  if (core_->GiveUp(task, kind) == RuntimeCore::GivenUp::kEnded) task.ReleaseMade();
}

void UnaryCall::Join() {
  std::shared_ptr<OperationTask> task;  // released outside the lock
  absl::MutexLock lock(&mutex_);
  task.swap(task_);
}

void UnaryCall::Cancel() {
  std::shared_ptr<OperationTask> task;
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    task = task_;
  }
  if (task != nullptr) {
    const bool late = task->deadline <= core_->clock().Now();
    GiveUp(*task, late ? OutcomeKind::kExpired : OutcomeKind::kCancelled);
  }
  Complete(MakeError(absl::StatusCode::kCancelled, v1::ERROR_REASON_CANCELLED,
                     "the caller cancelled the call"),
           task != nullptr);
}

void UnaryCall::OnDeadline() {
  std::shared_ptr<OperationTask> task;
  {
    absl::MutexLock lock(&mutex_);
    if (finished_) return;
    task = task_;
  }
  // If it has not started, or has ended, its outcome says so.
  if (core_->GiveUp(*task, OutcomeKind::kExpired) != RuntimeCore::GivenUp::kStillRunning) return;
  Complete(MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                     absl::StrCat(task->operation->name(),
                                  " had started when the deadline passed; it runs on"),
                     {{"operation", task->operation->name()}}),
           true);
}

void UnaryCall::Complete(Outcome outcome, bool admitted) {
  Finish finish;
  std::unique_ptr<grpc::Alarm> alarm;
  {
    absl::MutexLock lock(&mutex_);
    if (finished_) return;
    finished_ = true;
    finish = std::move(finish_);
    alarm = std::move(alarm_);
  }
  std::move(finish)(std::move(outcome), admitted);
}

}  // namespace runloop::daemon

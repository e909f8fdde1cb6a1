#include "runloop/runtime/operation_task.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/closure_task.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"

namespace runloop {

std::string_view OperationContext::operation() const { return task_.operation->name(); }
const std::shared_ptr<Session>& OperationContext::session() const { return task_.session; }
absl::Time OperationContext::deadline() const { return task_.deadline; }
LocalRuntimeContext OperationContext::runtime() const { return task_.core().context(); }

namespace internal {

CompletionBase::CompletionBase(std::shared_ptr<OperationTask> task) : task_(std::move(task)) {}

CompletionBase& CompletionBase::operator=(CompletionBase&& other) noexcept {
  if (this != &other) {
    if (task_ != nullptr) task_->DropCompletion();
    task_ = std::move(other.task_);
  }
  return *this;
}

CompletionBase::~CompletionBase() {
  if (task_ != nullptr) task_->DropCompletion();
}

void CompletionBase::Finish(absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply) {
  if (const std::shared_ptr<OperationTask> task = std::exchange(task_, nullptr)) {
    task->Finish(std::move(reply));
  }
}

OperationTask::OperationTask(std::shared_ptr<RuntimeCore> core, const Operation& to_run,
                             std::shared_ptr<Session> for_session,
                             std::unique_ptr<google::protobuf::Message> request,
                             absl::Time not_after, OutcomeCallback done)
    : core_(std::move(core)), request_(std::move(request)), done_(std::move(done)) {
  operation = &to_run;
  session = std::move(for_session);
  deadline = not_after;
  posted_at = core_->clock().Now();
}

OperationTask::~OperationTask() = default;

Task::RunResult OperationTask::Run() {
  OperationContext context(*this);
  absl::Status thrown;
  in_handler_ = true;
  try {
    operation->handler_(context, std::move(request_), CompletionBase(shared_from_this()));
  } catch (...) {
    thrown = CurrentExceptionStatus(nullptr);
  }
  in_handler_ = false;
  if (!thrown.ok()) {
    Finish(std::move(thrown));
  } else if (dropped_in_handler_) {
    DropCompletion();
  }
  if (phase_.load(std::memory_order_acquire) != Phase::kFinished) {
    core_->AddDeferred(shared_from_this());
    Phase in_handler = Phase::kInHandler;
    if (phase_.compare_exchange_strong(in_handler, Phase::kDeferred, std::memory_order_acq_rel)) {
      return RunResult::kDeferred;
    }
    core_->RemoveDeferred(*this);  // finished just now, on another thread
  }
  // A drain may follow at once, and must not close the way that the outcome takes.
  while (!delivered_.load(std::memory_order_acquire)) std::this_thread::yield();
  return RunResult::kCounted;
}

void OperationTask::Finish(absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply) {
  const Phase before = phase_.exchange(Phase::kFinished, std::memory_order_acq_rel);
  if (before == Phase::kFinished) return;
  const bool was_deferred = before == Phase::kDeferred;
  // Whoever hears of the outcome finds it counted.
  core_->CountEnd(*this, reply.ok(), was_deferred);
  Deliver(std::move(reply));
  delivered_.store(true, std::memory_order_release);
  if (was_deferred) core_->RemoveDeferred(*this);
}

void OperationTask::DropCompletion() {
  if (core_->OnRuntimeThread() && in_handler_) {
    dropped_in_handler_ = true;
    return;
  }
  Finish(MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_COMPLETION_DROPPED,
                   absl::StrCat("the handler of ", operation->name(),
                                " dropped its completion without finishing it"),
                   {{"operation", operation->name()}}));
}

void OperationTask::Skip(OutcomeKind kind) {
  request_.reset();
  Deliver(NeverRan(kind));
}

void OperationTask::Deliver(absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply) {
  OutcomeCallback done = std::exchange(done_, nullptr);
  if (done) std::move(done)(std::move(reply));
}

}  // namespace internal
}  // namespace runloop

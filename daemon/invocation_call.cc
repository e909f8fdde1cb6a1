#include "runloop/daemon/invocation_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop::daemon {
namespace {

// What expires before it starts has its own outcome, which the runtime gives at the deadline; only
// after that is the rest known to be running.
constexpr absl::Duration kGrace = absl::Milliseconds(20);

}  // namespace

using internal::RuntimeCore;

class InvocationCall::Link final : public internal::OutcomeSink,
                                   public std::enable_shared_from_this<Link> {
 public:
  Link(InvocationCall* linked, std::shared_ptr<CompletionThread> completion)
      : call(linked), completion_(std::move(completion)) {}

  // On the runtime thread, mostly.
  void Deliver(std::shared_ptr<internal::OperationTask> task) override {
    completion_->Post([self = shared_from_this(), task = std::move(task)] {
      if (self->call != nullptr) self->call->Complete(task->TakeOutcome(), true);
    });
  }

  InvocationCall* call;  // null once it is gone

 private:
  const std::shared_ptr<CompletionThread> completion_;
};

CallDeadline CallDeadline::Of(const grpc::ServerContextBase& context,
                              std::optional<absl::Duration> wanted, const Clock& clock) {
  const auto deadline = context.deadline();
  const bool endless = deadline == std::chrono::system_clock::time_point::max();
  const absl::Duration rpc =
      endless ? absl::InfiniteDuration() : absl::FromChrono(deadline) - absl::Now();
  const absl::Duration own = wanted.value_or(endless ? kDefaultTimeout : absl::InfiniteDuration());
  return {.start_by = clock.Now() + std::min(rpc, own), .ends_before_rpc = own < rpc};
}

InvocationCall::~InvocationCall() {
  if (link_ != nullptr) link_->call = nullptr;
}

void InvocationCall::Start() {
  absl::Status refused = Prepare();
  refused.ok() ? call_.Read() : Complete(std::move(refused), false);
}

void InvocationCall::OnRead(grpc::ByteBuffer* bytes) {
  absl::Status refused =
      bytes != nullptr
          ? OnRequest(*bytes)
          : MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                      absl::StrCat("the call of ", std::string(call_.method()),
                                   " ended without a request"));
  if (bytes != nullptr) bytes->Clear();
  if (!refused.ok()) Complete(std::move(refused), false);
}

absl::Status InvocationCall::Dispatch(RuntimeCore::Call invocation, const CallDeadline& deadline) {
  const std::shared_ptr<CompletionThread> completion = call_.completion().shared_from_this();
  link_ = std::make_shared<Link>(this, completion);
  invocation.deadline = deadline.start_by;
  invocation.sink = link_;
  absl::StatusOr<std::shared_ptr<internal::OperationTask>> task =
      core_->Dispatch(std::move(invocation));
  if (!task.ok()) return task.status();
  task_ = *std::move(task);
  completion->ExpectPost();
  // Nobody else ends the RPC then.
  if (deadline.ends_before_rpc && deadline.start_by != absl::InfiniteFuture()) {
    alarm_ = std::make_unique<grpc::Alarm>();
    alarm_->Set(
        absl::ToChronoTime(absl::Now() + (deadline.start_by - core_->clock().Now()) + kGrace),
        [completion, link = link_](bool due) {
          if (!due) return;
          completion->Post([link] {
            if (link->call != nullptr) link->call->OnDeadline();
          });
        });
  }
  return absl::OkStatus();
}

void InvocationCall::GiveUp(OutcomeKind kind) {
  // Nobody is there for the reply, even if there is one.
  if (core_->GiveUp(*task_, kind) == RuntimeCore::GivenUp::kEnded) task_->ReleaseMade();
}

void InvocationCall::OnGone() {
  if (task_ != nullptr) {
    const bool late = task_->deadline <= core_->clock().Now();
    GiveUp(late ? OutcomeKind::kExpired : OutcomeKind::kCancelled);
  }
  completed_ = true;
}

void InvocationCall::OnDeadline() {
  if (completed_) return;
  // If it has not started, or has ended, its outcome says so.
  if (core_->GiveUp(*task_, OutcomeKind::kExpired) != RuntimeCore::GivenUp::kStillRunning) return;
  Complete(MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                     absl::StrCat(task_->operation->name(),
                                  " had started when the deadline passed; it runs on"),
                     {{"operation", task_->operation->name()}}),
           true);
}

void InvocationCall::Complete(Outcome outcome, bool admitted) {
  if (std::exchange(completed_, true)) return;
  alarm_.reset();
  Answer(std::move(outcome), admitted);
}

}  // namespace runloop::daemon

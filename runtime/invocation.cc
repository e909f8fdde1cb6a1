#include "runloop/runtime/invocation.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {

void InvocationState::Finish(absl::StatusOr<Reply> outcome) {
  const absl::Status status = outcome.status();
  for (auto& watcher : FinishWithoutWatchers(std::move(outcome))) std::move(watcher)(status);
}

InvocationState::Watchers InvocationState::FinishWithoutWatchers(absl::StatusOr<Reply> outcome) {
  Watchers watchers;
  {
    absl::MutexLock lock(&mutex_);
    if (done_) return watchers;
    status_ = outcome.status();
    if (outcome.ok()) reply_ = *std::move(outcome);
    done_ = true;
    changed_.SignalAll();
    watchers.swap(watchers_);
  }
  OnDone();
  return watchers;
}

bool InvocationState::done() const {
  absl::MutexLock lock(&mutex_);
  return done_;
}

absl::Status InvocationState::Await(absl::Duration timeout) {
  if (WaitWouldDeadlock() && !done()) {
    return absl::FailedPreconditionError(
        "waiting on the very thread that has to run this or to bring its outcome; use "
        "DispatchBlocking, which runs in place on the runtime thread, or Watch");
  }
  const absl::Time deadline = Clock::Monotonic()->Now() + timeout;
  BringOutcome(deadline);
  absl::MutexLock lock(&mutex_);
  while (!done_ && Clock::Monotonic()->Now() < deadline) {
    Clock::Monotonic()->WaitUntil(&mutex_, &changed_, deadline);
  }
  if (!done_) {
    return MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                     absl::StrCat("no outcome after ", absl::FormatDuration(timeout),
                                  "; the invocation goes on"));
  }
  return status_;
}

std::unique_ptr<WaitScope> DeclareWait(InvocationState& state, absl::Duration timeout) {
  if (timeout <= absl::ZeroDuration() || !OnARuntimeThread() || state.done() ||
      state.WaitWouldDeadlock()) {
    return nullptr;
  }
  auto declared =
      std::make_unique<WaitScope>("an invocation", [weak = state.weak_from_this()](Chain chain) {
        if (const auto waited_for = weak.lock()) waited_for->AlsoWaits(std::move(chain));
      });
  state.AlsoWaits(CurrentChain());
  return declared;
}

absl::StatusOr<Reply> InvocationState::AwaitReply(absl::Duration timeout) {
  if (absl::Status status = Await(timeout); !status.ok()) return status;
  absl::MutexLock lock(&mutex_);
  if (!reply_.has_value()) return absl::FailedPreconditionError("the reply was taken before");
  return *std::exchange(reply_, std::nullopt);
}

void InvocationState::Watch(absl::AnyInvocable<void(const absl::Status&) &&> callback) {
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    if (!done_) {
      watchers_.push_back(std::move(callback));
      return;
    }
    status = status_;
  }
  std::move(callback)(status);
}

}  // namespace runloop::internal

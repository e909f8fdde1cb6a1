#include "runloop/runtime/invocation.h"

#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

namespace runloop {

void Invocation::Watch(Executor executor,
                       absl::AnyInvocable<void(const absl::Status&) &&> callback) const {
  if (executor == nullptr) return Watch(std::move(callback));
  state_->Watch([executor = std::move(executor),
                 callback = std::move(callback)](const absl::Status& status) mutable {
    executor([callback = std::move(callback), status]() mutable { std::move(callback)(status); });
  });
}

namespace internal {

// Aligned so that the flags of state_ fit below its address.
struct alignas(8) InvocationState::Listeners {
  absl::Mutex mutex;
  absl::CondVar done;
  Watchers watchers ABSL_GUARDED_BY(mutex);
  std::vector<Waiter*> waiters ABSL_GUARDED_BY(mutex);
};

void InvocationState::FreeListeners() { delete ListenersIn(state_.load()); }

void InvocationState::Finish(absl::StatusOr<Reply> outcome) {
  for (auto& watcher : FinishWithoutWatchers(std::move(outcome))) std::move(watcher)(status_);
}

InvocationState::Watchers InvocationState::FinishWithoutWatchers(absl::StatusOr<Reply> outcome) {
  if (outcome.ok() && outcome->message == nullptr && !outcome->has_bytes) {
    return SucceedWithoutWatchers();
  }
  if ((state_.fetch_or(kOutcomeGiven) & kOutcomeGiven) != 0) return {};
  if (outcome.ok()) {
    reply_ = std::make_unique<Reply>(*std::move(outcome));
  } else {
    status_ = std::move(outcome).status();
  }
  return Done(state_.fetch_or(kDone));
}

InvocationState::Watchers InvocationState::SucceedWithoutWatchers() {
  // In one step, as there is nothing to store: status_ and reply_ are what they have to be.
  uintptr_t before = state_.load();
  do {
    if ((before & kOutcomeGiven) != 0) return {};
  } while (!state_.compare_exchange_weak(before, before | kOutcomeGiven | kDone));
  return Done(before);
}

InvocationState::Watchers InvocationState::Done(uintptr_t before) {
  Watchers watchers;
  if (Listeners* const listeners = ListenersIn(before)) {
    absl::MutexLock lock(&listeners->mutex);
    listeners->done.SignalAll();
    for (Waiter* const waiter : listeners->waiters) waiter->Tell();
    watchers.swap(listeners->watchers);
  }
  OnDone();
  return watchers;
}

InvocationState::Listeners* InvocationState::Listen() {
  uintptr_t state = state_.load();
  if ((state & kDone) != 0) return nullptr;
  if (Listeners* const others = ListenersIn(state)) return others;
  auto listeners = std::make_unique<Listeners>();
  while (
      !state_.compare_exchange_weak(state, state | reinterpret_cast<uintptr_t>(listeners.get()))) {
    if ((state & kDone) != 0) return nullptr;
    if (Listeners* const others = ListenersIn(state)) return others;
  }
  return listeners.release();
}

absl::Status InvocationState::Await(absl::Duration timeout) {
  if (done()) return status_;
  if (WaitWouldDeadlock() && !done()) {
    return absl::FailedPreconditionError(
        "waiting on the very thread that has to run this or to bring its outcome; use "
        "DispatchBlocking, which runs in place on the runtime thread, or Watch");
  }
  if (!WaitUntil(Clock::Monotonic()->Now() + timeout)) {
    return MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                     absl::StrCat("no outcome after ", absl::FormatDuration(timeout),
                                  "; the invocation goes on"));
  }
  return status_;
}

bool InvocationState::WaitUntil(absl::Time deadline) {
  BringOutcome(deadline);
  if (Listeners* const listeners = Listen()) {
    absl::MutexLock lock(&listeners->mutex);
    while (!done() && Clock::Monotonic()->Now() < deadline) {
      Clock::Monotonic()->WaitUntil(&listeners->mutex, &listeners->done, deadline);
    }
  }
  return done();
}

std::unique_ptr<WaitScope> DeclareWait(const std::shared_ptr<InvocationState>& state,
                                       absl::Duration timeout) {
  if (timeout <= absl::ZeroDuration() || !OnARuntimeThread() || state->done() ||
      state->WaitWouldDeadlock()) {
    return nullptr;
  }
  auto declared = std::make_unique<WaitScope>(
      "an invocation", [weak = std::weak_ptr<InvocationState>(state)](Chain chain) {
        if (const auto waited_for = weak.lock()) waited_for->AlsoWaits(std::move(chain));
      });
  state->AlsoWaits(CurrentChain());
  return declared;
}

absl::StatusOr<Reply> InvocationState::AwaitReply(absl::Duration timeout) {
  if (absl::Status status = Await(timeout); !status.ok()) return status;
  if ((state_.fetch_or(kReplyTaken) & kReplyTaken) != 0) {
    return absl::FailedPreconditionError("the reply was taken before");
  }
  return reply_ == nullptr ? Reply() : std::move(*reply_);
}

void InvocationState::Watch(absl::AnyInvocable<void(const absl::Status&) &&> callback) {
  if (Listeners* const listeners = Listen()) {
    absl::MutexLock lock(&listeners->mutex);
    if (!done()) {
      listeners->watchers.push_back(std::move(callback));
      return;
    }
  }
  std::move(callback)(status_);
}

bool InvocationState::Add(Waiter& waiter) {
  Listeners* const listeners = Listen();
  if (listeners == nullptr) return false;
  {
    absl::MutexLock lock(&listeners->mutex);
    if (done()) return false;
    listeners->waiters.push_back(&waiter);
  }
  // This thread waits for others, too: somebody else has to bring it.
  BringOutcome(absl::InfinitePast());
  return true;
}

void InvocationState::Remove(Waiter& waiter) {
  Listeners* const listeners = ListenersIn(state_.load());
  if (listeners == nullptr) return;
  absl::MutexLock lock(&listeners->mutex);
  std::erase(listeners->waiters, &waiter);
}

}  // namespace internal
}  // namespace runloop

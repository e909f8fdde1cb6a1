#ifndef RUNLOOP_RUNTIME_PENDING_H_
#define RUNLOOP_RUNTIME_PENDING_H_

#include <atomic>
#include <coroutine>
#include <memory>
#include <type_traits>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/runtime/executor.h"
#include "runloop/runtime/invocation.h"

namespace runloop {

// GCC before 13 copies bit by bit, and destroys twice, what is written in braces within an
// expression that has a `co_await`. There, options that have no name are refused, rather than
// miscompiled.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#define RUNLOOP_OPTIONS_NEED_A_NAME 1
#else
#define RUNLOOP_OPTIONS_NEED_A_NAME 0
#endif

// What a dispatch gives: absl::StatusOr<Reply>, or absl::Status where Reply is void.
template <typename Reply>
using Outcome = typename std::conditional_t<std::is_void_v<Reply>, std::type_identity<absl::Status>,
                                            std::type_identity<absl::StatusOr<Reply>>>::type;

template <typename Reply>
class Pending;

namespace internal {

template <typename Reply>
const std::shared_ptr<InvocationState>& StateOf(const Pending<Reply>& pending);

// Of an invocation that is done; takes its reply.
template <typename Reply>
Outcome<Reply> OutcomeOf(InvocationState& state) {
  if constexpr (std::is_void_v<Reply>) {
    return state.Await(absl::ZeroDuration());
  } else {
    absl::StatusOr<internal::Reply> reply = state.AwaitReply(absl::ZeroDuration());
    if (!reply.ok()) return reply.status();
    return TakeReply<Reply>(*std::move(reply));
  }
}

// What a suspended coroutine and that which resumes it share: who comes first decides.
class Resumption {
 public:
  explicit Resumption(std::coroutine_handle<> coroutine) : coroutine_(coroutine) {}

  // The coroutine has given its thread away. False: the outcome came first, and it goes on itself.
  bool Suspend() {
    Stage before = Stage::kSuspending;
    return stage_.compare_exchange_strong(before, Stage::kSuspended);
  }
  void Resume() {
    if (stage_.exchange(Stage::kResumed) == Stage::kSuspended) coroutine_.resume();
  }
  // It is being destroyed, and is not resumed any more.
  void Abandon() { stage_.store(Stage::kAbandoned); }

 private:
  enum class Stage { kSuspending, kSuspended, kResumed, kAbandoned };

  const std::coroutine_handle<> coroutine_;
  std::atomic<Stage> stage_{Stage::kSuspending};
};

// What `co_await` makes of a Pending; lives in the coroutine's frame.
template <typename Reply>
class Awaiter {
 public:
  Awaiter(std::shared_ptr<InvocationState> state, Executor executor)
      : state_(std::move(state)), executor_(std::move(executor)) {}
  Awaiter(const Awaiter&) = delete;
  Awaiter& operator=(const Awaiter&) = delete;
  ~Awaiter() {
    if (resumption_ != nullptr) resumption_->Abandon();
  }

  bool await_ready() const { return state_->done(); }
  // Not inlined: the frame, and what a compiler would move into it, may be gone before this
  // returns.
  ABSL_ATTRIBUTE_NOINLINE bool await_suspend(std::coroutine_handle<> coroutine) {
    const auto resumption = std::make_shared<Resumption>(coroutine);
    resumption_ = resumption;
    if (executor_ == nullptr) {
      const std::shared_ptr<InvocationState> state = state_;
      state->Watch([resumption](const absl::Status&) { resumption->Resume(); });
      return resumption->Suspend();
    }
    // Goes on there, also if the outcome comes before this returns.
    resumption->Suspend();
    const std::shared_ptr<InvocationState> state = state_;
    state->Watch([resumption, executor = executor_](const absl::Status&) {
      executor([resumption] { resumption->Resume(); });
    });
    return true;
  }
  Outcome<Reply> await_resume() { return OutcomeOf<Reply>(*state_); }

 private:
  const std::shared_ptr<InvocationState> state_;
  const Executor executor_;  // may be null
  std::shared_ptr<Resumption> resumption_;
};

}  // namespace internal

// A dispatch that was handed over (RuntimeContext::Dispatch), and whose outcome one coroutine or
// one callback takes: `co_await` it, or give it to Then. Dropping it changes nothing: what it names
// goes on, as with an Invocation.
//
// A coroutine is resumed exactly once, or goes on without suspending if the outcome is known. It
// goes on where On says, else on the thread that learns of the outcome, as a Watch callback
// (invocation.h): then it must not block there until it suspends next, nor end with an exception.
//
// A coroutine may be destroyed while it awaits, and is not resumed then; the invocation goes on (a
// stop token ends it). Whoever destroys it sees to it that it is not being resumed just then: by
// doing so on its executor, if that runs one thing at a time.
template <typename Reply>
class [[nodiscard]] Pending {
 public:
  explicit Pending(std::shared_ptr<internal::InvocationState> state) : state_(std::move(state)) {}
  // Of a dispatch that asked for such a reply, which one call gets.
  explicit Pending(const Invocation& invocation) : state_(internal::StateOf(invocation)) {}
  Pending(Pending&&) = default;
  Pending& operator=(Pending&&) = default;

  // Where the coroutine that awaits this is resumed.
  Pending On(Executor executor) && {
    executor_ = std::move(executor);
    return std::move(*this);
  }

  internal::Awaiter<Reply> operator co_await() && {
    return internal::Awaiter<Reply>(std::move(state_), std::move(executor_));
  }

  // Runs `callback` with the outcome where On says; without On as Invocation::Watch runs it. It
  // must not throw.
  void Then(absl::AnyInvocable<void(Outcome<Reply>) &&> callback) && {
    auto take = [state = state_, callback = std::move(callback)]() mutable {
      std::move(callback)(internal::OutcomeOf<Reply>(*state));
    };
    if (executor_ == nullptr) {
      state_->Watch([take = std::move(take)](const absl::Status&) mutable { take(); });
    } else {
      state_->Watch([take = std::move(take), executor = std::move(executor_)](
                        const absl::Status&) mutable { executor(std::move(take)); });
    }
  }

 private:
  friend const std::shared_ptr<internal::InvocationState>& internal::StateOf<Reply>(const Pending&);

  std::shared_ptr<internal::InvocationState> state_;
  Executor executor_;  // may be null
};

template <typename Reply>
const std::shared_ptr<internal::InvocationState>& internal::StateOf(const Pending<Reply>& pending) {
  return pending.state_;
}

// `co_await invocation` gives its status, as Pending<void>(invocation) does; several coroutines may
// await the same. For what is dispatched in the same expression there is RuntimeContext::Dispatch.
inline internal::Awaiter<void> operator co_await(const Invocation& invocation) {
  return internal::Awaiter<void>(internal::StateOf(invocation), nullptr);
}
internal::Awaiter<void> operator co_await(Invocation&& invocation) = delete;

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_PENDING_H_

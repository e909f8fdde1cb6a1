#ifndef RUNLOOP_RUNTIME_INVOCATION_H_
#define RUNLOOP_RUNTIME_INVOCATION_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/executor.h"
#include "runloop/runtime/wait_chain.h"

namespace runloop {

class Invocation;

namespace internal {

// A reply as it arrived: the message itself in process, its bytes from another process. Neither, if
// the dispatch did not ask for it.
struct Reply {
  std::unique_ptr<google::protobuf::Message> message;
  std::string bytes;
  bool has_bytes = false;
};

// What an Invocation and the transport that carries it share. Thread-safe. The transport derives
// from it to add what Cancel needs.
//
// One that nobody awaits or watches takes no lock, and is finished by one atomic step.
class InvocationState {
 public:
  InvocationState() = default;
  InvocationState(const InvocationState&) = delete;
  InvocationState& operator=(const InvocationState&) = delete;
  virtual ~InvocationState() {
    if (ListenersIn(state_.load()) != nullptr) FreeListeners();
  }

  // Gives the outcome and runs what Watch left. The first call counts; any thread.
  void Finish(absl::StatusOr<Reply> outcome);
  // As Finish, but returns what Watch left, to be run on another thread.
  using Watchers = std::vector<absl::AnyInvocable<void(const absl::Status&) &&>>;
  Watchers FinishWithoutWatchers(absl::StatusOr<Reply> outcome);
  // The same for success without a reply.
  Watchers SucceedWithoutWatchers();

  bool done() const { return (state_.load() & kDone) != 0; }
  absl::Status Await(absl::Duration timeout);
  // The same where the wait is known not to deadlock, until then of Clock::Monotonic(); false: it
  // is not done.
  bool WaitUntil(absl::Time deadline);
  absl::StatusOr<Reply> AwaitReply(absl::Duration timeout);
  void Watch(absl::AnyInvocable<void(const absl::Status&) &&> callback);

  // A thread that waits for one of several. Add says false if it is done; else `waiter` is told
  // once it is, unless it was removed before.
  class Waiter {
   public:
    // Also if it has been told before. Must not block, nor call this state.
    virtual void Tell() = 0;

   protected:
    ~Waiter() = default;
  };
  bool Add(Waiter& waiter);
  // From then on it is not told.
  void Remove(Waiter& waiter);

  // Asks the transport to cancel what has not started.
  virtual void Cancel() {}
  // As Cancel, and the outcome of what has started is CANCELLED (STILL_RUNNING), soon; what it
  // makes is released when it ends.
  virtual void Stop() { Cancel(); }
  // True if waiting on the calling thread would keep the invocation from ever running.
  virtual bool WaitWouldDeadlock() const { return false; }
  // `chain` waits for it by now, though its dispatch did not say so.
  virtual void AlsoWaits(Chain) {}

 protected:
  // The calling thread is about to wait until `deadline` of Clock::Monotonic(): the transport may
  // have it bring the outcome itself.
  virtual void BringOutcome(absl::Time) {}
  // It has its outcome.
  virtual void OnDone() {}

 private:
  // Those that wait and watch; made for the first of them, and freed with the invocation.
  struct Listeners;

  // Bits of state_ below the address of the listeners. Who sets the first one stores the outcome,
  // then sets the second, from which on it is constant; who sets the third has the reply.
  static constexpr uintptr_t kOutcomeGiven = 1, kDone = 2, kReplyTaken = 4;
  static constexpr uintptr_t kFlags = kOutcomeGiven | kDone | kReplyTaken;

  static Listeners* ListenersIn(uintptr_t state) {
    return reinterpret_cast<Listeners*>(state & ~kFlags);
  }
  void FreeListeners();
  // Null: it is done.
  Listeners* Listen();
  // What is left to do for who sets kDone; `before` is what state_ was until then.
  Watchers Done(uintptr_t before);

  // Sequentially consistent: a transport looks for sleepers after it is done, and they look whether
  // it is after they said that they sleep.
  std::atomic<uintptr_t> state_{0};
  absl::Status status_;
  std::unique_ptr<Reply> reply_;  // null: an empty one
};

// To be kept while this thread waits for `state`: if it is a runtime's, the runtime is known to
// wait, and so a cycle of waits is found. Null where there is nothing to declare.
std::unique_ptr<WaitScope> DeclareWait(const std::shared_ptr<InvocationState>& state,
                                       absl::Duration timeout);

// `reply` as a Message of type Reply. INVALID_ARGUMENT if it is of another type, INTERNAL if it
// does not parse, FAILED_PRECONDITION if the dispatch did not ask for it.
template <typename ReplyType>
absl::StatusOr<ReplyType> TakeReply(Reply reply) {
  if (reply.message != nullptr) {
    if (reply.message->GetDescriptor() != ReplyType::descriptor()) {
      return absl::InvalidArgumentError("the reply is a " + reply.message->GetTypeName() +
                                        ", not a " + ReplyType::descriptor()->full_name());
    }
    return std::move(static_cast<ReplyType&>(*reply.message));
  }
  if (!reply.has_bytes) {
    return absl::FailedPreconditionError(
        "the dispatch did not ask for a reply: use DispatchAsync<Reply>");
  }
  ReplyType parsed;
  if (!parsed.ParseFromString(reply.bytes)) {
    return absl::InternalError("the reply does not parse as a " +
                               ReplyType::descriptor()->full_name());
  }
  return parsed;
}

const std::shared_ptr<InvocationState>& StateOf(const Invocation& invocation);

}  // namespace internal

// One dispatch that was handed over: await it, watch it, or ignore it. A cheap value; copies mean
// the same invocation. Safe from any thread. Destroying it does not cancel what it names.
class Invocation {
 public:
  explicit Invocation(std::shared_ptr<internal::InvocationState> state)
      : state_(std::move(state)) {}

  // True once it has its one outcome. A refusal is an outcome, known at once.
  bool done() const { return state_->done(); }

  // Blocks until the outcome is known and returns its status. DEADLINE_EXCEEDED (STILL_RUNNING)
  // after `timeout`: the invocation goes on, and can be awaited again. FAILED_PRECONDITION on the
  // runtime thread that would have to run it; as its outcome (DEADLOCK), if that thread waits for
  // the calling one in turn.
  absl::Status Await(absl::Duration timeout = absl::InfiniteDuration()) const {
    const std::unique_ptr<internal::WaitScope> declared = internal::DeclareWait(state_, timeout);
    return state_->Await(timeout);
  }

  // As Await, and takes the reply: one call gets it. The dispatch must have asked for it
  // (DispatchAsync<Reply>).
  template <typename Reply>
  absl::StatusOr<Reply> AwaitReply(absl::Duration timeout = absl::InfiniteDuration()) const {
    const std::unique_ptr<internal::WaitScope> declared = internal::DeclareWait(state_, timeout);
    absl::StatusOr<internal::Reply> reply = state_->AwaitReply(timeout);
    if (!reply.ok()) return reply.status();
    return internal::TakeReply<Reply>(*std::move(reply));
  }

  // Runs `callback` with the outcome's status: now, if it is known, else on the thread that learns
  // of it. In process that is the runtime thread, the one that finished a deferred completion or
  // cancelled, or the runtime's service thread; else the client's own thread. It must not block
  // there, and must not throw.
  void Watch(absl::AnyInvocable<void(const absl::Status&) &&> callback) const {
    state_->Watch(std::move(callback));
  }
  // The same, but `executor` runs it; an empty one is as none.
  void Watch(Executor executor, absl::AnyInvocable<void(const absl::Status&) &&> callback) const;

  // If it has not started, it never runs and its outcome is CANCELLED; if it has, nothing happens.
  void Cancel() const { state_->Cancel(); }

 private:
  friend const std::shared_ptr<internal::InvocationState>& internal::StateOf(const Invocation&);

  std::shared_ptr<internal::InvocationState> state_;
};

inline const std::shared_ptr<internal::InvocationState>& internal::StateOf(
    const Invocation& invocation) {
  return invocation.state_;
}

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_INVOCATION_H_

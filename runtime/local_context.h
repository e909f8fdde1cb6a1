#ifndef RUNLOOP_RUNTIME_LOCAL_CONTEXT_H_
#define RUNLOOP_RUNTIME_LOCAL_CONTEXT_H_

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/runtime/closure_task.h"
#include "runloop/runtime/priority.h"
#include "runloop/runtime/runtime_context.h"
#include "runloop/runtime/session.h"
#include "runloop/runtime/timer.h"

namespace runloop {

// Hands closures to the runtime thread of this process. A value: cheap to copy, safe from any
// thread, valid for ever: after the runtime has stopped every call answers UNAVAILABLE
// (RUNTIME_STOPPED).
//
// Order: closures and operations share one queue and start in the order in which they were handed
// over, those of one priority. What a thread did before it handed over a closure is visible to the
// closure; what the closure did is visible to the caller that waited for it.
class LocalRuntimeContext {
 public:
  // Queues `closure` and returns without waiting; never runs it in place, not even from the runtime
  // thread. It runs once, on the runtime thread, as soon as the loop runs and its turn comes, and
  // is destroyed there. If the runtime stops first it is destroyed without having run, on the
  // thread that stops it. An exception that it throws is logged and counted; the thread goes on.
  //
  // RESOURCE_EXHAUSTED (QUEUE_FULL), UNAVAILABLE (RUNTIME_STOPPED): refused; it is destroyed before
  // this returns.
  //
  // `where`, the call itself unless a function that wraps it passes on its own caller's, is what
  // status, notices and the slow-operation log name.
  //
  // It carries no trace context, nor do those of the functions below, unless they run in place:
  // what it dispatches does not inherit that of the handler which handed it over. To go on with a
  // trace, capture a copy of OperationContext::trace_parent and pass it in DispatchOptions.
  template <typename F>
  absl::Status RunOnRuntimeThreadAsync(F closure,
                                       SourceLocation where = SourceLocation::current()) const {
    return internal::PostClosure(*core_, std::move(closure), priority_, CallSite(where));
  }

  // Runs `closure` on the runtime thread and waits for what it returns: absl::StatusOr<R>, and
  // absl::Status where it returns void or absl::Status; a closure that returns absl::StatusOr<T>
  // gives that itself.
  //
  // On the runtime thread itself it runs in place, before the loop runs as well as inside a task.
  // From another thread before the loop runs it waits for the loop to start, like any other.
  //
  // DEADLINE_EXCEEDED after `timeout`. With EXPIRED the closure had not started and never runs;
  // what it captured is destroyed on the runtime thread. With STILL_RUNNING it runs on, and its
  // result is destroyed on the runtime thread. So never capture by reference what ends when this
  // call returns: capture by value or share ownership. INTERNAL (HANDLER_THREW) with the text of an
  // exception; RESOURCE_EXHAUSTED, UNAVAILABLE as above.
  //
  // Deadlock: do not hold, while calling this, a lock that work on the runtime thread takes.
  template <typename F>
  auto RunOnRuntimeThreadBlocking(F closure, absl::Duration timeout = kDefaultTimeout,
                                  SourceLocation where = SourceLocation::current()) const {
    return internal::RunClosureBlocking(*core_, std::move(closure), timeout, priority_,
                                        CallSite(where));
  }

  // Runs `closure` once, on the runtime thread, `delay` from now: then it joins the queue behind
  // what is there, as if it was handed over at that moment; where two are due at the same moment,
  // the one that was handed over first. It is never early. It is late by what the queue holds and
  // the task that runs, and by up to 1 ms where another one is due within that, so that they share
  // one wake-up. The clock is CLOCK_MONOTONIC: setting the time of day changes nothing, and the
  // time that the machine sleeps does not count. A delay that is not positive: it is queued at
  // once.
  //
  // It counts as unfinished (RuntimeOptions::bounds) from now on. It is destroyed as that of
  // RunOnRuntimeThreadAsync, or when it is cancelled (Timer). A drain does not wait for it, and
  // runs it if it becomes due meanwhile; it is destroyed when the runtime stops.
  //
  // RESOURCE_EXHAUSTED (QUEUE_FULL), UNAVAILABLE (RUNTIME_STOPPED): refused; it is destroyed before
  // this returns.
  template <typename F>
  absl::StatusOr<Timer> RunAfter(absl::Duration delay, F closure) const {
    return StartTimer([closure = std::move(closure)]() mutable { std::invoke(std::move(closure)); },
                      delay, absl::InfiniteDuration());
  }

  // Runs `closure` again and again until it is cancelled: first a period from now, then at each
  // multiple of it, however late a run was. Of the times that have come when a run starts, that run
  // is for all: so the queue never holds two, and after a task that was in the way for ten periods
  // it runs once. Each run is an invocation of its own; all take the room of one. An exception ends
  // the run, not the timer. The rest is as with RunAfter; INVALID_ARGUMENT (INVALID_REQUEST): the
  // period is not positive.
  template <typename F>
  absl::StatusOr<Timer> RunEvery(absl::Duration period, F closure) const {
    return StartTimer([closure = std::move(closure)]() mutable { std::invoke(closure); }, period,
                      period);
  }

  // The same runtime for work of another priority: all that the context hands over, and that of
  // contexts made of it, has it. A closure costs a little more then than one of Priority::kDefault.
  LocalRuntimeContext WithPriority(Priority priority) const {
    LocalRuntimeContext context = *this;
    context.priority_ = priority;
    return context;
  }
  Priority priority() const { return priority_; }

  // True on the runtime thread.
  bool OnRuntimeThread() const;

  // Publishes `message` on a topic (OperationRegistry::RegisterTopic) to all that have subscribed
  // to it. Never waits, and runs nothing of a subscriber's; from any thread, in one order. Who does
  // not take what comes loses the oldest. NOT_FOUND (UNKNOWN_TOPIC), INVALID_ARGUMENT: it is of
  // another type; UNAVAILABLE (RUNTIME_STOPPED).
  template <typename Message>
  absl::Status Publish(std::string_view topic, Message message) const {
    return PublishMessage(topic, std::make_shared<const Message>(std::move(message)));
  }

  // The same runtime as something that dispatches operations, in a session of its own with this
  // name: what Connect gives in the process that hosts the runtime.
  RuntimeContext AsRuntimeContext(std::string client_name = "local") const;

 private:
  friend class Runtime;
  friend class OperationContext;
  friend class internal::RuntimeCore;

  explicit LocalRuntimeContext(std::shared_ptr<internal::RuntimeCore> core)
      : core_(std::move(core)) {}
  absl::Status PublishMessage(std::string_view topic,
                              std::shared_ptr<const google::protobuf::Message> message) const;

  absl::StatusOr<Timer> StartTimer(absl::AnyInvocable<void()> closure, absl::Duration delay,
                                   absl::Duration period) const;

  std::shared_ptr<internal::RuntimeCore> core_;
  Priority priority_ = Priority::kDefault;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_LOCAL_CONTEXT_H_

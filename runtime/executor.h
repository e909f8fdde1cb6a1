#ifndef RUNLOOP_RUNTIME_EXECUTOR_H_
#define RUNLOOP_RUNTIME_EXECUTOR_H_

#include <functional>
#include <utility>

#include "absl/functional/any_invocable.h"

namespace runloop {

// Where callbacks run and coroutines go on: takes work from any thread, returns without waiting for
// it, and runs it once, later or in place. It must not block and must not throw: it is called on
// the thread that learns of an outcome.
//
// Work that it drops, because its loop has ended or it has none, is destroyed without having run:
// at once or later, on any thread. The library keeps nothing of it, waits for none of it, and has
// told the outcome, or queued the notification, before. So
//   a callback of Watch or Then is destroyed uncalled, with what it captured;
//   a coroutine stays suspended: it can be destroyed (Pending), by whoever owns it, which one that
//     owns itself has not; so let nothing wait for it without end;
//   of a subscription what has come waits, within its bounds; the next notification has it handed
//     over again, and a callback that had its turn dropped so gets all of them in their order.
//     After the subscription's end there is no next one, and what waits is dropped.
//
// Copies mean the same place. It must be usable for as long as something may be handed to it: an
// invocation that is watched keeps a copy until it is done, and the thread that has handed the work
// over lets go of it a moment after the work may have run. So what an executor belongs to, such as
// an io_context, ends after the contexts, in process after the runtime.
using Executor = std::function<void(absl::AnyInvocable<void() &&> work)>;

// An executor of asio's, standalone or Boost's (io_context, strand, thread_pool,
// any_io_executor), or any other type for which `post(executor, function)` is found beside it. Each
// piece of work is posted, never run in place. An io_context must be kept from running out of work
// meanwhile, by a work guard. For operations with completion tokens see asio.h.
template <typename PostTarget>
Executor ExecutorOf(PostTarget target) {
  return [target = std::move(target)](absl::AnyInvocable<void() &&> work) {
    post(target, [work = std::move(work)]() mutable { std::move(work)(); });
  };
}

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_EXECUTOR_H_

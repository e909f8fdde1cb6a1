#ifndef RUNLOOP_RUNTIME_RUN_LOOP_H_
#define RUNLOOP_RUNTIME_RUN_LOOP_H_

#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace runloop {

// How much one slice of queued work may take before the loop's other sources get a turn. Where
// something is queued, a slice gets on with it, however small its budget.
struct DrainBudget {
  // A slice ends after the task that passes this; in a flood of closures that take next to no time,
  // up to 16 of them later. Default 4 ms: a quarter of a frame at 60 Hz.
  absl::Duration time = absl::Milliseconds(4);
  // A slice ends after this many tasks.
  int tasks = 4096;
};

// The event loop under the runtime thread: something that can be woken from any thread and then
// calls back on its own. The runtime gives it one thing to do, its slice of queued work; platform
// sources are the loop's business.
//
// Backends: NewEpollLoop (epoll_loop.h), NewGlibLoop (glib/glib_loop.h), NewExternalLoop
// (external_loop.h).
//
// Threads: Wake and Quit from any thread, Wake also from a signal handler. Everything else on the
// loop's thread. Ownership: the runtime owns the loop and outlives its own calls into it. A loop
// serves one runtime.
class RunLoop {
 public:
  // Runs queued work within the budget. True: work is left, so call again after the other sources
  // have had a turn, without waiting for a Wake. False: nothing is left, and the next work comes
  // with a Wake.
  using Work = std::function<bool(const DrainBudget&)>;

  virtual ~RunLoop() = default;

  // `epoll`, `glib`, `external`: what status shows.
  virtual std::string_view kind() const = 0;

  // Gives the loop its work. Called once, by Runtime::Create, on the loop's thread before anything
  // else.
  virtual absl::Status Attach(Work work) = 0;

  // Ends the attachment: `work` is destroyed and never called again. The loop's thread.
  virtual void Detach() = 0;

  // Makes the loop call its work soon, on its thread. Calls coalesce. Async-signal-safe, does not
  // block.
  virtual void Wake() = 0;

  // Makes the loop call its work also while `fd` is readable, which the work ends; until the second
  // is called, before `fd` is closed. Any thread. One descriptor at a time. UNIMPLEMENTED: the loop
  // watches no descriptors, and workers' messages come by way of Wake alone.
  virtual absl::Status WakeOn(int fd);
  virtual void StopWakingOn(int fd);

  // Makes the loop call its work also at `at` of Clock::Monotonic(), once and not before;
  // InfiniteFuture: at no time. The last call counts. From Attach to Detach, any thread.
  // UNIMPLEMENTED: the loop keeps no time, and is woken by a thread of the runtime's instead.
  virtual absl::Status WakeAt(absl::Time at);

  // False if somebody else runs this loop: Run and Quit then do nothing.
  virtual bool can_run() const = 0;

  // Dispatches sources until Quit; not re-entrant. FAILED_PRECONDITION if the loop cannot be run
  // from here.
  virtual absl::Status Run() = 0;

  // Makes Run return after the source that is being dispatched. A Quit before Run makes the next
  // Run return at once.
  virtual void Quit() = 0;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_RUN_LOOP_H_

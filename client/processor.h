#ifndef RUNLOOP_CLIENT_PROCESSOR_H_
#define RUNLOOP_CLIENT_PROCESSOR_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runloop/client/connect.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop {

// A worker's unit of media work. The runner calls everything on one thread, the one that called
// RunProcessor.
class Processor {
 public:
  enum class Next { kContinue, kDone };

  virtual ~Processor() = default;

  // Called once, first. Keep a copy of `context`; leave what needs the runtime thread to the first
  // Process. An error skips Process, not Teardown.
  virtual absl::Status Setup(const RuntimeContext& context) = 0;

  // Does one unit of work, such as a frame. Called until it returns kDone or an error, or a signal
  // came; should return within a few hundred milliseconds, since a signal is looked at only in
  // between.
  virtual absl::StatusOr<Next> Process() = 0;

  // The session was lost, or ended because the daemon drained. What Setup or Process made in the
  // daemon is gone, and `lost.unknown` may or may not have run. Called between calls of Process, or
  // before Teardown if the loss ended Process. With OK the processor goes on, in the next session;
  // an error ends it. Default: `lost.why`, which makes kProcessorNotConnected.
  virtual absl::Status OnSessionLost(const SessionLost& lost) { return lost.why; }

  // Called exactly once, last, whatever happened before: finish what was made, wait for it, give
  // everything back.
  virtual absl::Status Teardown() = 0;
};

// What RunProcessor returns, to be the process's exit code.
enum ProcessorExit : int {
  kProcessorDone = 0,    // done, or stopped by SIGTERM or SIGINT, and torn down without error
  kProcessorFailed = 1,  // Setup or Process failed (or threw); Teardown was called
  kProcessorTeardownFailed = 2,  // only Teardown failed
  kProcessorNotConnected = 69,   // no daemon, or the session was lost (EX_UNAVAILABLE)
};

// Connects, drives `processor` through its life, and tears it down, also on SIGTERM, SIGINT and
// errors. Errors go to stderr, one line each. `options.on_session_lost`, if set, is called too, on
// the client's thread. To be called once a process, from main.
int RunProcessor(Processor& processor, const ConnectOptions& options = {});

}  // namespace runloop

#endif  // RUNLOOP_CLIENT_PROCESSOR_H_

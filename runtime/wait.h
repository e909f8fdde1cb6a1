#ifndef RUNLOOP_RUNTIME_WAIT_H_
#define RUNLOOP_RUNTIME_WAIT_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "runloop/runtime/invocation.h"

namespace runloop {

// Blocks until each of `invocations` has its outcome, whatever the others', and returns the first
// outcome in the order given that is an error; OK for none. DEADLINE_EXCEEDED (STILL_RUNNING) if
// some have no outcome after `timeout` for all of them together: they go on, and the message says
// how many. FAILED_PRECONDITION as Invocation::Await, with some of them unfinished. Replies can be
// taken afterwards (AwaitReply).
absl::Status WaitAll(absl::Span<const Invocation> invocations,
                     absl::Duration timeout = absl::InfiniteDuration());

// Blocks until one of `invocations` has its outcome, whichever, and returns its index: the first in
// the order given, if several have. Take it out before the next call, or that gives it again; a
// call takes time that grows with how many they are.
//
// DEADLINE_EXCEEDED (STILL_RUNNING): none has after `timeout`. INVALID_ARGUMENT: there are none.
// FAILED_PRECONDITION on a thread where Invocation::Await of one of them gives it, if none has its
// outcome yet. Out of an operation of one runtime into others it blocks that first runtime's
// thread, which is not known to the runtimes: no cycle through it is found.
//
// A thread that waits for one outcome reads it from the connection itself; this is told by the
// client's own thread, which makes it slower than an Await by two wake-ups.
absl::StatusOr<size_t> WaitAny(absl::Span<const Invocation> invocations,
                               absl::Duration timeout = absl::InfiniteDuration());

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_WAIT_H_

#ifndef RUNLOOP_CLIENT_CONNECT_H_
#define RUNLOOP_CLIENT_CONNECT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop {

struct ConnectOptions {
  // `unix:/path` or `/path`. Empty: RUNLOOP_ADDRESS, or the default socket (ipc/address.h).
  std::string address;
  // What status and logs call this worker. Empty: the program's name.
  std::string client_name;
  // How long Connect, and later each reconnect, tries before it gives up.
  absl::Duration connect_timeout = absl::Seconds(5);
  // Bytes of requests that may be unsent or unanswered; a dispatch beyond that is refused with
  // RESOURCE_EXHAUSTED.
  int64_t max_unfinished_bytes = int64_t{256} << 20;
};

// Opens a session with the daemon at an address and returns once it stands. In the process that
// hosts the runtime of that address this is the in-process path: no socket, no serialization.
//
// If the connection breaks later, what was sent ends as UNKNOWN (SESSION_LOST), what was not as
// UNAVAILABLE (NOT_CONNECTED); the next dispatch connects again, in a new session, trying for
// `connect_timeout`.
//
// DispatchBlocking whose timeout has passed asks the daemon to cancel and waits up to 0.5 s more
// for its word. With EXPIRED the operation had not started and never runs. With STILL_RUNNING there
// was no word: as a rule it runs on, but from a daemon that is slow to answer it is not known
// whether it started.
//
// When the last copy of the context is destroyed, what was dispatched is still sent and run: the
// destructor waits for that, for at most 5 s, and then breaks the session off. Keep the context for
// as long as outcomes matter.
//
// UNAVAILABLE: nothing listens there; the message says what to do. PERMISSION_DENIED: the socket is
// somebody else's. FAILED_PRECONDITION: no protocol version in common. INVALID_ARGUMENT: not an
// address.
//
// Not to be called in a child forked without exec by a process that used gRPC.
absl::StatusOr<RuntimeContext> Connect(const ConnectOptions& options = {});

}  // namespace runloop

#endif  // RUNLOOP_CLIENT_CONNECT_H_

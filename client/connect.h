#ifndef RUNLOOP_CLIENT_CONNECT_H_
#define RUNLOOP_CLIENT_CONNECT_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/client/session_lost.h"
#include "runloop/runtime/priority.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop {

struct ConnectOptions {
  // `unix:/path` or `/path`. Empty: RUNLOOP_ADDRESS, or the default socket (ipc/address.h).
  std::string address;
  // What status and logs call this worker. Empty: the program's name.
  std::string client_name;
  // Of all that is dispatched (priority.h). A worker in a role, such as a sandboxed one, gets no
  // more than the daemon lets roles have (runloopd --role_priority).
  Priority priority = Priority::kDefault;
  // How long Connect tries before it gives up, and how long a dispatch that finds no session waits
  // for the next one.
  absl::Duration connect_timeout = absl::Seconds(5);
  // Bytes of requests that may be unsent or unanswered; a dispatch beyond that is refused with
  // RESOURCE_EXHAUSTED, or waits (WhenFull).
  int64_t max_unfinished_bytes = int64_t{256} << 20;
  // Buffers are memory of this process, and their bytes travel in messages, as where the connection
  // carries no descriptors: to compare.
  bool buffers_in_messages = false;
  // A session's messages go through shared memory where the daemon lets them. False: always by the
  // gRPC stream, to compare.
  bool ring = true;
  // A session whose connection is lost goes on, as far as the daemon lets it, and is resumed by
  // another connection: no outcome is lost. False: it is lost with its connection, to compare.
  bool resume = true;
  // Called once for each session that is lost, or ends because the daemon drained, after its
  // invocations have their outcomes and before the next session opens; on the thread that runs
  // Watch callbacks, so it must not block and must not throw. It may dispatch, for the next
  // session. Not called in the in-process path, nor once the last context is destroyed; not for a
  // session that the last context ended, unless something was lost with it.
  std::function<void(const SessionLost&)> on_session_lost;

  // For runloop itself and its tests; not part of the interface.
  struct Internal {
    // How long a DispatchBlocking whose timeout has passed waits for the daemon's word on it.
    absl::Duration give_up_grace = absl::Milliseconds(500);
    // How long the daemon may take for each step of attaching a ring, within connect_timeout.
    absl::Duration attach_timeout = absl::Seconds(1);
    // Announces a call of on_session_lost: called before the outcomes that come with the loss, on
    // the same thread.
    std::function<void()> before_session_lost;
  };
  Internal internal;
};

// Opens a session with the daemon at an address and returns once it stands. In the process that
// hosts the runtime of that address this is the in-process path: no socket, no serialization.
//
// If the connection breaks later and the daemon lives, the session is resumed by another one,
// within the daemon's grace (HostOptions::resume_grace): what was dispatched runs once, no outcome
// is lost, handles and buffers stay. Only who waits notices. If it cannot be resumed, since the
// daemon ended, does not know it any more or lets nobody resume, it is lost: what was sent ends as
// UNKNOWN (SESSION_LOST), or as UNAVAILABLE (DRAINING) if the daemon drained and had not taken it,
// what was not sent as UNAVAILABLE (NOT_CONNECTED), and `on_session_lost` is called. From then on,
// for as long as there is a context, a new session is tried for: at once, when the socket comes
// back, and in between at least every 5 s (every second where the socket's directory cannot be
// watched). What is dispatched meanwhile is sent in its order when the session stands. What waits
// longer than `connect_timeout` ends as UNAVAILABLE (NOT_CONNECTED), and when the daemon refuses
// the session for good, all that waits ends with that refusal.
//
// DispatchBlocking whose timeout has passed gives the operation up and waits up to 0.5 s more for
// the daemon's answer. EXPIRED: it had not started and never runs. STILL_RUNNING: it had, and runs
// on; if the message says that there was no word from the daemon, it is not known whether it
// started.
//
// When the last copy of the context is destroyed, what was dispatched is still sent and run: the
// destructor waits for that, for at most 5 s, and then breaks the session off: the daemon ends it,
// at the latest when its grace is over. Keep the context for as long as outcomes matter.
//
// UNAVAILABLE: nothing listens there; the message says what to do. PERMISSION_DENIED: the socket is
// somebody else's. FAILED_PRECONDITION: no protocol version in common. INVALID_ARGUMENT: not an
// address.
//
// Not to be called in a child forked without exec by a process that used gRPC.
absl::StatusOr<RuntimeContext> Connect(const ConnectOptions& options = {});

}  // namespace runloop

#endif  // RUNLOOP_CLIENT_CONNECT_H_

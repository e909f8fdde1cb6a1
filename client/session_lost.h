#ifndef RUNLOOP_CLIENT_SESSION_LOST_H_
#define RUNLOOP_CLIENT_SESSION_LOST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace runloop {

// An invocation of which nobody knows whether it ran.
struct LostInvocation {
  // Its number among those of the one Connect; rises with each dispatch.
  uint64_t id = 0;
  // `package.Service/Method`.
  std::string operation;
};

// The end of a session that its worker did not ask for. What the session held in the daemon, such
// as handles, is gone with it.
struct SessionLost {
  // As the daemon named it.
  std::string session_id;
  // UNAVAILABLE (DRAINING): the daemon drained and had answered all that it took. Else UNKNOWN
  // (SESSION_LOST).
  absl::Status why;
  // Those whose outcome is UNKNOWN (SESSION_LOST), in send order. What was never sent, or reached
  // the daemon too late in its drain, is not among them: it did not run, and its outcome is
  // UNAVAILABLE (NOT_CONNECTED, DRAINING).
  std::vector<LostInvocation> unknown;
};

}  // namespace runloop

#endif  // RUNLOOP_CLIENT_SESSION_LOST_H_

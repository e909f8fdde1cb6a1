#ifndef RUNLOOP_DAEMON_INHERITED_SOCKETS_H_
#define RUNLOOP_DAEMON_INHERITED_SOCKETS_H_

#include <vector>

#include "absl/status/statusor.h"

namespace runloop::daemon {

// The sockets that systemd (or another supervisor) passed to this process: LISTEN_FDS descriptors
// from 3 on, if LISTEN_PID is this process; none otherwise. They are set to be closed on exec, and
// LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are taken out of the environment, so that no child
// mistakes them for its own. Changes the environment: call it before there are other threads.
//
// INVALID_ARGUMENT: the variables contradict themselves. The environment is cleaned all the same.
absl::StatusOr<std::vector<int>> TakeInheritedSockets();

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_INHERITED_SOCKETS_H_

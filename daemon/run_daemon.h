#ifndef RUNLOOP_DAEMON_RUN_DAEMON_H_
#define RUNLOOP_DAEMON_RUN_DAEMON_H_

#include "runloop/daemon/flags.h"

namespace runloop::daemon {

// Loads the plugins, serves until a signal, drains; the calling thread is the runtime thread. Says
// on standard error `listening at unix:/path` once work runs, and in one line what is wrong
// otherwise. Returns the exit code.
int RunDaemon(const Flags& flags);

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_RUN_DAEMON_H_

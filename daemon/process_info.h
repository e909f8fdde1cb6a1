#ifndef RUNLOOP_DAEMON_PROCESS_INFO_H_
#define RUNLOOP_DAEMON_PROCESS_INFO_H_

#include <cstdint>

namespace runloop::daemon {

// `0.1.0`.
const char* Version();

// Entries of /proc/self/fd and /proc/self/task; 0 if they cannot be read.
uint32_t CountOpenFiles();
uint32_t CountThreads();

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_PROCESS_INFO_H_

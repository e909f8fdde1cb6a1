#ifndef RUNLOOP_TESTS_BENCHMARK_DAEMON_H_
#define RUNLOOP_TESTS_BENCHMARK_DAEMON_H_

#include <string>

namespace runloop::benchmark {

// Our side of MeasureSystems: a daemon with the operations of work.h, configured as runloopd is by
// default. Prints `ready` in a line, and returns the exit code after SIGTERM.
int ServeDaemon(const std::string& socket);

}  // namespace runloop::benchmark

#endif  // RUNLOOP_TESTS_BENCHMARK_DAEMON_H_

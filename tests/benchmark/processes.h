#ifndef RUNLOOP_TESTS_BENCHMARK_PROCESSES_H_
#define RUNLOOP_TESTS_BENCHMARK_PROCESSES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runloop/tests/benchmark/path.h"

// The workloads across processes (docs/performance.md), the same for every system: one process
// serves, others work.
namespace runloop::benchmark {

struct System {
  const char* name;
  // Serves on `socket` in a process of its own, prints `ready` in a line when it does, and returns
  // the exit code after SIGTERM.
  int (*serve)(const std::string& socket);
  // In a worker's process.
  std::unique_ptr<Path> (*connect)(const std::string& socket);
  int64_t flood = 0;  // how many operations B2 hands over; 0: it is for large payloads alone
};

// The main function of a program that measures B1, B2 and B3 of `systems`, one after the other, and
// prints one line a figure. --system wants one of them alone.
int MeasureSystems(int argc, char** argv, const std::vector<System>& systems);

}  // namespace runloop::benchmark

#endif  // RUNLOOP_TESTS_BENCHMARK_PROCESSES_H_

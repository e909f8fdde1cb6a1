#ifndef RUNLOOP_TESTS_BENCHMARK_PEERS_PEER_LOOP_H_
#define RUNLOOP_TESTS_BENCHMARK_PEERS_PEER_LOOP_H_

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <mutex>
#include <utility>

#include "absl/flags/parse.h"
#include "runloop/tests/benchmark/closures.h"

// What each event loop that is measured beside ours has in common.
namespace runloop::benchmark {

// How a user waits for a posted closure: a flag, a mutex and a condition variable on the stack.
template <typename Loop, typename F>
uint64_t CallByPosting(Loop& loop, F closure) {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  uint64_t result = 0;
  loop.Post([&, closure = std::move(closure)] {
    const uint64_t value = closure();
    const std::lock_guard lock(mutex);
    result = value;
    done = true;
    changed.notify_one();
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return done; });
  return result;
}

// Measures a Loop that starts in its constructor and ends in its destructor.
template <typename Loop>
int MeasurePeer(int argc, char** argv, const char* name) {
  absl::ParseCommandLine(argc, argv);
  try {
    Pin(Side::kCaller);
    Loop loop;
    PrintClosures(loop, name);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 1;
  }
}

}  // namespace runloop::benchmark

#endif  // RUNLOOP_TESTS_BENCHMARK_PEERS_PEER_LOOP_H_

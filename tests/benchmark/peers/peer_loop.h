#ifndef RUNLOOP_TESTS_BENCHMARK_PEERS_PEER_LOOP_H_
#define RUNLOOP_TESTS_BENCHMARK_PEERS_PEER_LOOP_H_

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <utility>

#include "absl/flags/parse.h"
#include "runloop/tests/benchmark/closures.h"

// What each event loop that is measured beside ours has in common.
namespace runloop::benchmark {

// How a user waits for a posted closure who looks at what it costs: a word on the stack, and a
// futex that sleeps until it is set. A mutex and a condition variable took twice as long.
template <typename Loop, typename F>
uint64_t CallByPosting(Loop& loop, F closure) {
  std::atomic<uint32_t> done{0};
  const auto futex = [](std::atomic<uint32_t>* word, int operation, uint32_t value) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation, value, nullptr, nullptr, 0);
  };
  uint64_t result = 0;
  loop.Post([&done, &result, futex, closure = std::move(closure)] {
    result = closure();
    done.store(1, std::memory_order_release);
    // The caller may have returned already; then the address wakes nobody.
    futex(&done, FUTEX_WAKE_PRIVATE, 1);
  });
  while (done.load(std::memory_order_acquire) == 0) futex(&done, FUTEX_WAIT_PRIVATE, 0);
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

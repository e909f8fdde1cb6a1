#ifndef RUNLOOP_TESTS_BENCHMARK_PEERS_PEER_SERVER_H_
#define RUNLOOP_TESTS_BENCHMARK_PEERS_PEER_SERVER_H_

#include <signal.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/work.h"

// What each serving process that is measured beside ours has in common.
namespace runloop::benchmark {

// Says that this process serves, and makes SIGTERM end it with exit code 0.
inline void BecomeServer() {
  signal(SIGTERM, [](int) { std::_Exit(0); });
  std::puts("ready");
  std::fflush(stdout);
}

// The operation. Any thread.
class PeerWork {
 public:
  uint64_t Operate(std::string_view payload) {
    operated_.fetch_add(1, std::memory_order_relaxed);
    return Sum(payload);
  }
  v1::GetUsageReply GetUsage() const {
    v1::GetUsageReply reply;
    reply.set_process_cpu_ns(ProcessCpu());
    reply.set_operated(operated_.load(std::memory_order_relaxed));
    return reply;
  }

 private:
  std::atomic<int64_t> operated_{0};
};

}  // namespace runloop::benchmark

#endif  // RUNLOOP_TESTS_BENCHMARK_PEERS_PEER_SERVER_H_

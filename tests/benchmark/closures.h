#ifndef RUNLOOP_TESTS_BENCHMARK_CLOSURES_H_
#define RUNLOOP_TESTS_BENCHMARK_CLOSURES_H_

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <latch>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "runloop/tests/benchmark/measure.h"

// The workloads with closures in one process (docs/performance.md), the same for every system.
//
// A Loop hands closures to one thread that runs an event loop:
//   void Post(F)          does not wait
//   uint64_t Call(F)      waits for what F returns
namespace runloop::benchmark {

inline constexpr int kProducers[] = {1, 2, 4};
inline constexpr int64_t kClosures = 1'000'000;

template <typename Loop>
void CallClosure(Loop& loop, uint64_t value) {
  Check(loop.Call([value] { return value + 1; }) == value + 1, "the result is wrong");
}

// From the post to the start of the closure, in nanoseconds; the loop has had 30 us to fall asleep.
template <typename Loop>
int64_t PostToStart(Loop& loop) {
  // Gives the processor away if the runtime thread needs this one.
  const auto poll = [] {
    if (PinnedToOneProcessor()) sched_yield();
  };
  for (const int64_t rest = Now() + 30'000; Now() < rest;) poll();
  std::atomic<int64_t> started{0};
  const int64_t posted = Now();
  loop.Post([&started] { started.store(Now(), std::memory_order_release); });
  while (started.load(std::memory_order_acquire) == 0) poll();
  return started.load() - posted;
}

struct Flood {
  int64_t count = 0;
  int64_t duration = 0;
  int64_t producer_cpu = 0;  // of handing over
  int64_t runtime_cpu = 0;   // of the thread that runs them
  double rate() const { return double(count) * 1e9 / double(duration); }
};

// Runs `produce(producer, await)` in each producer; it calls `await` between handing over its part
// and waiting for its end.
template <typename Produce>
Flood RunFlood(int producers, int64_t count, Produce produce) {
  Flood flood{.count = count};
  std::latch ready(producers + 1);
  std::atomic<int64_t> cpu{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < producers; ++i) {
    threads.emplace_back([&, i] {
      Pin(Side::kCaller);
      ready.arrive_and_wait();
      const int64_t begin = ThreadCpu();
      produce(i, [&] { cpu += ThreadCpu() - begin; });
    });
  }
  ready.arrive_and_wait();
  const int64_t begin = Now();
  for (std::thread& thread : threads) thread.join();
  flood.duration = Now() - begin;
  flood.producer_cpu = cpu;
  return flood;
}

// Where flooded closures leave their work; the runtime thread's until `done`.
struct Sink {
  int64_t left = 0;
  uint64_t sum = 0;
  absl::Notification done;
};

// Captures 32 bytes.
struct FloodedClosure {
  uint64_t a, b, c;
  Sink* sink;
  void operator()() const {
    sink->sum += a ^ b ^ c;
    if (--sink->left == 0) sink->done.Notify();
  }
};
static_assert(sizeof(FloodedClosure) == 32);

template <typename Loop>
Flood FloodClosures(Loop& loop, int producers, int64_t count) {
  const int64_t each = count / producers;
  Sink sink{.left = each * producers};
  const auto cpu = [] { return uint64_t(ThreadCpu()); };
  const uint64_t before = loop.Call(cpu);
  Flood flood = RunFlood(producers, sink.left, [&](int producer, auto await) {
    for (int64_t i = 0; i < each; ++i) {
      loop.Post(FloodedClosure{uint64_t(i), uint64_t(producer), ~uint64_t(i), &sink});
    }
    await();
    sink.done.WaitForNotification();
  });
  // The last one may still be in Notify.
  flood.runtime_cpu = int64_t(loop.Call(cpu) - before);
  return flood;
}

// ---- lines ----

inline void PrintLatency(const std::string& peer, std::string_view workload,
                         const Samples& samples) {
  Print(peer, workload, "p50", samples.Quantile(0.5), "ns");
  Print(peer, workload, "p99", samples.Quantile(0.99), "ns");
}

template <typename Call>
void PrintBlocking(const std::string& peer, Call call) {
  for (int i = 0; i < 500; ++i) call();
  const int64_t cpu = ProcessCpu();
  const Samples samples = MeasureCalls(call, 20'000);
  PrintLatency(peer, "A1", samples);
  Print(peer, "A1", "cpu", double(ProcessCpu() - cpu) / double(samples.size()), "ns/call");
}

inline void PrintFlood(const std::string& peer, int producers, const Flood& flood) {
  Print(peer, "A2", absl::StrCat("rate_p", producers), flood.rate() / 1e6, "Mops/s");
  Print(peer, "A2", absl::StrCat("post_p", producers),
        double(flood.producer_cpu) / double(flood.count), "ns/post");
  Print(peer, "A2", absl::StrCat("cpu_runtime_p", producers),
        double(flood.runtime_cpu) / double(flood.count), "ns/op");
}

// What --only wants of A1, A2 and A3.
template <typename Loop>
void PrintClosures(Loop& loop, const std::string& peer) {
  if (Wanted("A1")) {
    uint64_t value = 0;
    PrintBlocking(peer, [&] { CallClosure(loop, ++value); });
  }
  if (Wanted("A3")) {
    Samples samples;
    const int64_t end = Now() + TimeLimit();
    do {
      samples.Add(PostToStart(loop));
    } while (Now() < end && samples.size() < 5'000);
    PrintLatency(peer, "A3", samples);
  }
  if (!Wanted("A2")) return;
  for (const int producers : kProducers) {
    PrintFlood(peer, producers, FloodClosures(loop, producers, FloodSize(kClosures)));
  }
}

}  // namespace runloop::benchmark

#endif  // RUNLOOP_TESTS_BENCHMARK_CLOSURES_H_

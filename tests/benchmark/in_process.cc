// One process: closures and operations handed to a runtime thread that sleeps in its loop or is
// flooded. Without arguments a Google Benchmark program; with --lines it prints one line a figure.

#include <benchmark/benchmark.h>
#include <sched.h>

#include <atomic>
#include <cstdio>
#include <exception>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "runloop/runtime/epoll_loop.h"
#include "runloop/runtime/glib/glib_loop.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/work.h"

ABSL_FLAG(bool, lines, false, "print lines `peer workload metric value unit` instead");

namespace runloop::benchmark {
namespace {

constexpr int kProducers[] = {1, 2, 4};
constexpr int64_t kClosures = 1'000'000;
constexpr int64_t kOperations = 200'000;

// A runtime on a thread of its own, and both ways to hand it work.
class Fixture {
 public:
  Fixture(std::string name, std::unique_ptr<RunLoop> loop) : name(std::move(name)) {
    Pin(Side::kRuntime);
    OperationRegistry registry;
    RegisterWork(registry);
    runtime_ =
        Check(Runtime::Create({.loop = std::move(loop),
                               .operations = std::move(registry),
                               .thread = RuntimeThread::kSpawn,
                               .bounds = {.total = {.items = 2 * kClosures, .bytes = 1 << 20}}}));
    Pin(Side::kCaller);
  }

  LocalRuntimeContext closures() const { return runtime_->context(); }
  RuntimeContext operations() const { return closures().AsRuntimeContext("benchmark"); }

  const std::string name;

 private:
  std::unique_ptr<Runtime> runtime_;
};

void CallClosure(const LocalRuntimeContext& context, uint64_t value) {
  const absl::StatusOr<uint64_t> result =
      context.RunOnRuntimeThreadBlocking([value] { return value + 1; });
  Check(result.ok() && *result == value + 1, "the result is wrong");
}

// Gives the processor away if the runtime thread needs this one.
void Poll() {
  if (PinnedToOneProcessor()) sched_yield();
}

// From the post to the start of the closure, in nanoseconds; the loop has had 30 us to fall asleep.
int64_t PostToStart(const LocalRuntimeContext& context) {
  for (const int64_t rest = Now() + 30'000; Now() < rest;) Poll();
  std::atomic<int64_t> started{0};
  const int64_t posted = Now();
  Check(context.RunOnRuntimeThreadAsync(
      [&started] { started.store(Now(), std::memory_order_release); }));
  while (started.load(std::memory_order_acquire) == 0) Poll();
  return started.load() - posted;
}

struct Flood {
  int64_t count = 0;
  int64_t duration = 0;
  int64_t producer_cpu = 0;  // of handing over
  double rate() const { return double(count) * 1e9 / double(duration); }
};

// Runs `produce(producer, await)` in each producer; it calls `await` between handing over its part
// and waiting for its end.
template <typename Produce>
Flood Run(int producers, int64_t count, Produce produce) {
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

Flood FloodClosures(const Fixture& fixture, int producers, int64_t count) {
  const int64_t each = count / producers;
  Sink sink{.left = each * producers};
  return Run(producers, sink.left, [&](int producer, auto await) {
    const LocalRuntimeContext context = fixture.closures();
    for (int64_t i = 0; i < each; ++i) {
      Check(context.RunOnRuntimeThreadAsync(
          FloodedClosure{uint64_t(i), uint64_t(producer), ~uint64_t(i), &sink}));
    }
    await();
    sink.done.WaitForNotification();
  });
}

Flood FloodOperations(const Fixture& fixture, int producers, int64_t count) {
  const int64_t each = count / producers;
  return Run(producers, each * producers, [&](int, auto await) {
    OperationFlood flood(fixture.operations());
    flood.Send(each);
    await();
    flood.AwaitLast();
  });
}

// ---- lines ----

void PrintLatency(const std::string& peer, std::string_view workload, const Samples& samples) {
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

void PrintFlood(const std::string& peer, int producers, const Flood& flood) {
  Print(peer, "A2", absl::StrCat("rate_p", producers), flood.rate() / 1e6, "Mops/s");
  Print(peer, "A2", absl::StrCat("post_p", producers),
        double(flood.producer_cpu) / double(flood.count), "ns/post");
}

void PrintLines(const Fixture& fixture) {
  const std::string operation = fixture.name + "_operation";
  if (Wanted("A1")) {
    uint64_t value = 0;
    PrintBlocking(fixture.name,
                  [&, context = fixture.closures()] { CallClosure(context, ++value); });
    PrintBlocking(operation,
                  [context = fixture.operations(), payload = std::string(kSmallPayload, 1)] {
                    OperateBlocking(context, payload);
                  });
  }
  if (Wanted("A3")) {
    Samples samples;
    const int64_t end = Now() + TimeLimit();
    do {
      samples.Add(PostToStart(fixture.closures()));
    } while (Now() < end && samples.size() < 5'000);
    PrintLatency(fixture.name, "A3", samples);
  }
  if (!Wanted("A2")) return;
  for (const int producers : kProducers) {
    PrintFlood(fixture.name, producers, FloodClosures(fixture, producers, FloodSize(kClosures)));
    PrintFlood(operation, producers, FloodOperations(fixture, producers, FloodSize(kOperations)));
  }
}

// ---- Google Benchmark ----

void RegisterFlood(const std::string& name, Flood (*run)(const Fixture&, int, int64_t),
                   const Fixture& fixture, int64_t count) {
  for (const int producers : kProducers) {
    ::benchmark::RegisterBenchmark(absl::StrCat(name, "/producers:", producers).c_str(),
                                   [=, &fixture](::benchmark::State& state) {
                                     int64_t items = 0;
                                     for (auto _ : state) {
                                       const Flood flood =
                                           run(fixture, producers, FloodSize(count));
                                       state.SetIterationTime(double(flood.duration) / 1e9);
                                       items += flood.count;
                                     }
                                     state.SetItemsProcessed(items);
                                   })
        ->UseManualTime();
  }
}

void Register(const Fixture& fixture) {
  ::benchmark::RegisterBenchmark((fixture.name + "/closure_blocking").c_str(),
                                 [&](::benchmark::State& state) {
                                   const LocalRuntimeContext context = fixture.closures();
                                   for (auto _ : state) CallClosure(context, 1);
                                 })
      ->UseRealTime();
  ::benchmark::RegisterBenchmark(
      (fixture.name + "/closure_post_to_start").c_str(),
      [&](::benchmark::State& state) {
        for (auto _ : state) {
          state.SetIterationTime(double(PostToStart(fixture.closures())) / 1e9);
        }
      })
      ->UseManualTime();
  RegisterFlood(fixture.name + "/closure_flood", FloodClosures, fixture, kOperations);
  ::benchmark::RegisterBenchmark((fixture.name + "/operation_blocking").c_str(),
                                 [&](::benchmark::State& state) {
                                   const RuntimeContext context = fixture.operations();
                                   const std::string payload(kSmallPayload, 1);
                                   for (auto _ : state) OperateBlocking(context, payload);
                                 })
      ->UseRealTime();
  RegisterFlood(fixture.name + "/operation_flood", FloodOperations, fixture, kOperations);
}

int Main() {
  SetUpMutexes();
  const Fixture epoll("runloop", NewEpollLoop());
  const Fixture glib("runloop_glib", NewGlibLoop());
  if (absl::GetFlag(FLAGS_lines)) {
    PrintLines(epoll);
    PrintLines(glib);
  } else {
    Register(epoll);
    Register(glib);
    ::benchmark::RunSpecifiedBenchmarks();
  }
  return 0;
}

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  absl::ParseCommandLine(argc, argv);
  try {
    return runloop::benchmark::Main();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "in_process: %s\n", error.what());
    return 1;
  }
}

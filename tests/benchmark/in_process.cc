// One process: closures and operations handed to a runtime thread that sleeps in its loop or is
// flooded. Without arguments a Google Benchmark program; with --lines it prints one line a figure.

#include <benchmark/benchmark.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "runloop/runtime/epoll_loop.h"
#include "runloop/runtime/glib/glib_loop.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/benchmark/closures.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/work.h"

ABSL_FLAG(bool, lines, false, "print lines `peer workload metric value unit` instead");

namespace runloop::benchmark {
namespace {

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
    context_ = runtime_->context();
    Pin(Side::kCaller);
  }

  template <typename F>
  void Post(F closure) const {
    Check(context_->RunOnRuntimeThreadAsync(std::move(closure)));
  }
  template <typename F>
  uint64_t Call(F closure) const {
    return Check(context_->RunOnRuntimeThreadBlocking(std::move(closure)));
  }
  RuntimeContext operations() const { return context_->AsRuntimeContext("benchmark"); }

  const std::string name;

 private:
  std::unique_ptr<Runtime> runtime_;
  std::optional<LocalRuntimeContext> context_;
};

Flood FloodOperations(const Fixture& fixture, int producers, int64_t count) {
  const int64_t each = count / producers;
  const auto cpu = [] { return uint64_t(ThreadCpu()); };
  const uint64_t before = fixture.Call(cpu);
  Flood result = RunFlood(producers, each * producers, [&](int, auto await) {
    OperationFlood flood(fixture.operations());
    flood.Send(each);
    await();
    flood.AwaitLast();
  });
  result.runtime_cpu = int64_t(fixture.Call(cpu) - before);
  return result;
}

// ---- lines ----

void PrintLines(const Fixture& fixture) {
  if (WantedSystem(fixture.name)) PrintClosures(fixture, fixture.name);
  const std::string operation = fixture.name + "_operation";
  if (!WantedSystem(operation)) return;
  if (Wanted("A1")) {
    PrintBlocking(operation,
                  [context = fixture.operations(), payload = std::string(kSmallPayload, 1)] {
                    OperateBlocking(context, payload);
                  });
  }
  if (!Wanted("A2")) return;
  for (const int producers : kProducers) {
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
                                   for (auto _ : state) CallClosure(fixture, 1);
                                 })
      ->UseRealTime();
  ::benchmark::RegisterBenchmark((fixture.name + "/closure_post_to_start").c_str(),
                                 [&](::benchmark::State& state) {
                                   for (auto _ : state) {
                                     state.SetIterationTime(double(PostToStart(fixture)) / 1e9);
                                   }
                                 })
      ->UseManualTime();
  RegisterFlood(fixture.name + "/closure_flood", FloodClosures<const Fixture>, fixture,
                kOperations);
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

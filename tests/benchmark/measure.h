#ifndef RUNLOOP_TESTS_BENCHMARK_MEASURE_H_
#define RUNLOOP_TESTS_BENCHMARK_MEASURE_H_

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// What the benchmark programs share: clocks, pinning, percentiles, bounds, the line format.
namespace runloop::benchmark {

// Nanoseconds: CLOCK_MONOTONIC, which all processes share, and the processor time used so far.
int64_t Now();
int64_t ThreadCpu();
int64_t ProcessCpu();

// RUNLOOP_PIN=same puts both sides on processor 0; split puts the callers on 0 and the runtime's
// side on 1; anything else leaves the scheduler alone.
enum class Side { kCaller = 0, kRuntime = 1 };
// Pins the calling thread and those that it makes from now on.
void Pin(Side side);
bool PinnedToOneProcessor();

// --only names workloads, such as `A1,B2`; by default all are wanted.
bool Wanted(std::string_view workload);
// --system names one system, such as `runloop`; by default all are wanted.
bool WantedSystem(std::string_view system);
// --time: how long one latency workload may measure.
int64_t TimeLimit();
// The smaller of `count` and --flood.
int64_t FloodSize(int64_t count);

// --deadlock_detection=false turns off the lock-order graph that Abseil keeps in every process
// whose main function does not say otherwise, unless it was itself built without assertions.
void SetUpMutexes();

// Prints `peer workload[@pinning] metric value unit`.
void Print(std::string_view peer, std::string_view workload, std::string_view metric, double value,
           std::string_view unit);

// Measurements of one kind, in nanoseconds.
class Samples {
 public:
  void Add(int64_t ns) { values_.push_back(ns); }
  size_t size() const { return values_.size(); }
  // `quantile` in [0, 1).
  double Quantile(double quantile) const;

 private:
  std::vector<int64_t> values_;
};

// Measures each `call()`, until --time has passed or `most` were measured.
template <typename Call>
Samples MeasureCalls(Call call, int most) {
  Samples samples;
  const int64_t begin = Now();
  while (static_cast<int>(samples.size()) < most) {
    const int64_t start = Now();
    if (samples.size() > 0 && start - begin > TimeLimit()) break;
    call();
    samples.Add(Now() - start);
  }
  return samples;
}

// Throw what is not OK: a benchmark that fails measures nothing.
void Check(const absl::Status& status);
template <typename T>
T Check(absl::StatusOr<T> value) {
  Check(value.status());
  return *std::move(value);
}
// The same for what must hold.
void Check(bool holds, std::string_view what);

}  // namespace runloop::benchmark

#endif  // RUNLOOP_TESTS_BENCHMARK_MEASURE_H_

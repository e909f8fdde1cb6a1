#include "runloop/tests/benchmark/measure.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "absl/flags/flag.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

ABSL_FLAG(std::string, only, "", "the workloads to run, such as A1,B2; all if empty");
ABSL_FLAG(std::string, system, "", "the only system to measure; all if empty");
ABSL_FLAG(absl::Duration, time, absl::Milliseconds(300), "how long one latency workload measures");
ABSL_FLAG(int64_t, flood, 1'000'000, "the most that one flood hands over");
ABSL_FLAG(bool, deadlock_detection, true, "leave Abseil's lock-order graph on");

namespace runloop::benchmark {
namespace {

int64_t Read(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

std::string_view Pinning() {
  const char* const value = std::getenv("RUNLOOP_PIN");
  return value == nullptr ? "" : value;
}

}  // namespace

int64_t Now() { return Read(CLOCK_MONOTONIC); }
int64_t ThreadCpu() { return Read(CLOCK_THREAD_CPUTIME_ID); }
int64_t ProcessCpu() { return Read(CLOCK_PROCESS_CPUTIME_ID); }

bool PinnedToOneProcessor() { return Pinning() == "same"; }

void Pin(Side side) {
  if (Pinning() != "same" && Pinning() != "split") return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(PinnedToOneProcessor() ? 0 : static_cast<int>(side), &set);
  Check(sched_setaffinity(0, sizeof set, &set) == 0, "cannot pin a thread to a processor");
}

bool Wanted(std::string_view workload) {
  const std::string only = absl::GetFlag(FLAGS_only);
  return only.empty() || only.find(workload) != std::string::npos;
}

bool WantedSystem(std::string_view system) {
  const std::string only = absl::GetFlag(FLAGS_system);
  return only.empty() || only == system;
}

int64_t TimeLimit() { return absl::ToInt64Nanoseconds(absl::GetFlag(FLAGS_time)); }

int64_t FloodSize(int64_t count) { return std::min(count, absl::GetFlag(FLAGS_flood)); }

void SetUpMutexes() {
  if (absl::GetFlag(FLAGS_deadlock_detection)) return;
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
}

void Print(std::string_view peer, std::string_view workload, std::string_view metric, double value,
           std::string_view unit) {
  std::string where(workload);
  if (Pinning() == "same" || Pinning() == "split") where.append("@").append(Pinning());
  std::printf("%s %s %s %.6g %s\n", std::string(peer).c_str(), where.c_str(),
              std::string(metric).c_str(), value, std::string(unit).c_str());
  std::fflush(stdout);
}

double Samples::Quantile(double quantile) const {
  Check(!values_.empty(), "nothing was measured");
  std::vector<int64_t> values = values_;
  const auto at = values.begin() + static_cast<ptrdiff_t>(quantile * double(values.size()));
  std::nth_element(values.begin(), at, values.end());
  return double(*at);
}

void Check(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

void Check(bool holds, std::string_view what) {
  if (!holds) throw std::runtime_error(std::string(what));
}

}  // namespace runloop::benchmark

#ifndef RUNLOOP_TESTS_BENCHMARK_WORK_H_
#define RUNLOOP_TESTS_BENCHMARK_WORK_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string_view>
#include <utility>

#include "absl/types/span.h"
#include "runloop/benchmark/v1/work.pb.h"
#include "runloop/runtime/operation_registry.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop::benchmark {

inline constexpr char kOperate[] = "runloop.benchmark.v1.Work/Operate";
inline constexpr char kGetUsage[] = "runloop.benchmark.v1.Work/GetUsage";

inline constexpr size_t kSmallPayload = 64;
inline constexpr size_t kBulkPayload = size_t{8} << 20;

// What Operate answers.
uint64_t Sum(std::string_view payload);
uint64_t Sum(absl::Span<const uint8_t> bytes);

v1::OperateRequest MakeRequest(std::string_view payload);

// Registers both operations.
void RegisterWork(OperationRegistry& operations);

// One Operate that waits for its sum, and checks it.
void OperateBlocking(const RuntimeContext& context, std::string_view payload);

// `count` Operates of the small payload that ask for no reply, with a bounded number of them
// unfinished, as a producer has to that outruns the runtime. Destruction does not wait.
class OperationFlood {
 public:
  explicit OperationFlood(RuntimeContext context) : context_(std::move(context)) {}

  // Hands over all of them.
  void Send(int64_t count);
  // Returns once the last one has run.
  void AwaitLast();

 private:
  const RuntimeContext context_;
  std::deque<Invocation> marks_;  // every kStep-th, oldest first
};

}  // namespace runloop::benchmark

#endif  // RUNLOOP_TESTS_BENCHMARK_WORK_H_

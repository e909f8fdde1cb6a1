#include "runloop/tests/benchmark/work.h"

#include <memory>
#include <string>
#include <utility>

#include "runloop/tests/benchmark/measure.h"

namespace runloop::benchmark {
namespace {

constexpr int64_t kStep = 4096;
constexpr size_t kMostMarks = 8;

}  // namespace

uint64_t Sum(absl::Span<const uint8_t> bytes) {
  return Sum(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

uint64_t Sum(std::string_view payload) {
  uint64_t sum = payload.size();
  const size_t step = payload.size() > 4096 ? 4096 : 8;
  for (size_t i = 0; i < payload.size(); i += step) sum += static_cast<uint8_t>(payload[i]);
  return sum;
}

v1::OperateRequest MakeRequest(std::string_view payload) {
  v1::OperateRequest request;
  request.mutable_payload()->assign(payload.data(), payload.size());
  return request;
}

void RegisterWork(OperationRegistry& operations) {
  const auto operated = std::make_shared<int64_t>(0);
  Check(operations.Register<v1::OperateRequest, v1::OperateReply>(
      kOperate,
      [operated](OperationContext& context,
                 const v1::OperateRequest& request) -> absl::StatusOr<v1::OperateReply> {
        ++*operated;
        v1::OperateReply reply;
        if (request.has_buffer()) {
          const absl::StatusOr<Buffer> buffer = context.OpenBuffer(request.buffer());
          if (!buffer.ok()) return buffer.status();
          absl::Span<const uint8_t> bytes = buffer->data();
          if (request.first_bytes() != 0) bytes = bytes.first(request.first_bytes());
          reply.set_sum(Sum(bytes));
        } else {
          reply.set_sum(Sum(request.payload()));
        }
        return reply;
      }));
  Check(operations.Register<v1::GetUsageRequest, v1::GetUsageReply>(
      kGetUsage, [operated](OperationContext&, const v1::GetUsageRequest&) {
        v1::GetUsageReply reply;
        reply.set_process_cpu_ns(ProcessCpu());
        reply.set_runtime_thread_cpu_ns(ThreadCpu());
        reply.set_operated(*operated);
        return reply;
      }));
}

void OperateBlocking(const RuntimeContext& context, std::string_view payload) {
  const v1::OperateReply reply =
      Check(context.DispatchBlocking<v1::OperateReply>(kOperate, MakeRequest(payload)));
  Check(reply.sum() == Sum(payload), "the sum is wrong");
}

void OperationFlood::Send(int64_t count) {
  const v1::OperateRequest request = MakeRequest(std::string(kSmallPayload, 1));
  for (int64_t i = 1; i <= count; ++i) {
    Invocation invocation = context_.DispatchAsync(kOperate, request);
    if (i % kStep != 0 && i != count) continue;
    marks_.push_back(std::move(invocation));
    if (marks_.size() <= kMostMarks) continue;
    Check(marks_.front().Await());
    marks_.pop_front();
  }
}

void OperationFlood::AwaitLast() {
  Check(marks_.back().Await());
  marks_.clear();
}

}  // namespace runloop::benchmark

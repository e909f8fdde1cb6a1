#include <algorithm>
#include <utility>

#include "runloop/client/connect.h"
#include "runloop/runtime/buffer.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/path.h"
#include "runloop/tests/benchmark/work.h"

namespace runloop::benchmark {
namespace {

class BufferPath final : public Path {
 public:
  BufferPath(const std::string& socket, size_t first_bytes)
      : context_(Check(Connect({.address = socket, .client_name = "benchmark"}))),
        first_bytes_(first_bytes) {}

  void Operate(std::string_view payload) override {
    if (buffer_.size() != payload.size()) {
      buffer_ = Check(context_.NewBuffer(payload.size()));
      std::copy(payload.begin(), payload.end(), buffer_.mutable_data().begin());
      sum_ = Sum(first_bytes_ == 0 ? payload : payload.substr(0, first_bytes_));
    }
    v1::OperateRequest request;
    request.set_first_bytes(first_bytes_);
    *request.mutable_buffer() = buffer_.ref();
    const v1::OperateReply reply =
        Check(context_.DispatchBlocking<v1::OperateReply>(kOperate, std::move(request)));
    Check(reply.sum() == sum_, "the sum is wrong");
  }
  void Flood(int64_t) override { Check(false, "floods are of small payloads"); }
  v1::GetUsageReply GetUsage() override {
    return Check(context_.DispatchBlocking<v1::GetUsageReply>(kGetUsage, v1::GetUsageRequest()));
  }

 private:
  const RuntimeContext context_;
  const size_t first_bytes_;
  Buffer buffer_;
  uint64_t sum_ = 0;
};

}  // namespace

std::unique_ptr<Path> ConnectBuffer(const std::string& socket) {
  return std::make_unique<BufferPath>(socket, 0);
}

std::unique_ptr<Path> ConnectBufferStart(const std::string& socket) {
  return std::make_unique<BufferPath>(socket, kSmallPayload);
}

}  // namespace runloop::benchmark

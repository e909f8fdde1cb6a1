#include "runloop/client/connect.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/path.h"
#include "runloop/tests/benchmark/work.h"

namespace runloop::benchmark {
namespace {

class StreamPath final : public Path {
 public:
  explicit StreamPath(const std::string& socket)
      : context_(Check(Connect({.address = socket, .client_name = "benchmark"}))) {}

  void Operate(std::string_view payload) override { OperateBlocking(context_, payload); }

  void Flood(int64_t count) override {
    OperationFlood flood(context_);
    flood.Send(count);
    flood.AwaitLast();
  }

  v1::GetUsageReply GetUsage() override {
    return Check(context_.DispatchBlocking<v1::GetUsageReply>(kGetUsage, v1::GetUsageRequest()));
  }

 private:
  const RuntimeContext context_;
};

}  // namespace

std::unique_ptr<Path> ConnectStream(const std::string& socket) {
  return std::make_unique<StreamPath>(socket);
}

}  // namespace runloop::benchmark

#include "runloop/client/connect.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/path.h"
#include "runloop/tests/benchmark/work.h"

namespace runloop::benchmark {
namespace {

class SessionPath final : public Path {
 public:
  SessionPath(const std::string& socket, bool ring)
      : context_(Check(Connect({.address = socket, .client_name = "benchmark", .ring = ring}))) {}

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
  return std::make_unique<SessionPath>(socket, false);
}

std::unique_ptr<Path> ConnectRing(const std::string& socket) {
  return std::make_unique<SessionPath>(socket, true);
}

}  // namespace runloop::benchmark

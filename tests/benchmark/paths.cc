#include "runloop/tests/benchmark/paths.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/benchmark/v1/work.grpc.pb.h"
#include "runloop/client/connect.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/work.h"

namespace runloop::benchmark {
namespace {

absl::Status ToAbsl(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

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

class BufferPath final : public Path {
 public:
  explicit BufferPath(const std::string& socket)
      : context_(Check(Connect({.address = socket, .client_name = "benchmark"}))) {}

  void Operate(std::string_view payload) override {
    if (buffer_.size() != payload.size()) {
      buffer_ = Check(context_.NewBuffer(payload.size()));
      std::copy(payload.begin(), payload.end(), buffer_.mutable_data().begin());
      sum_ = Sum(payload);
    }
    v1::OperateRequest request;
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
  Buffer buffer_;
  uint64_t sum_ = 0;
};

class UnaryPath final : public Path {
 public:
  explicit UnaryPath(const std::string& socket)
      : stub_(v1::Work::NewStub(
            grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials()))) {}

  void Operate(std::string_view payload) override {
    grpc::ClientContext context;
    v1::OperateReply reply;
    Check(ToAbsl(stub_->Operate(&context, MakeRequest(payload), &reply)));
    Check(reply.sum() == Sum(payload), "the sum is wrong");
  }

  void Flood(int64_t count) override {
    const v1::OperateRequest request = MakeRequest(std::string(kSmallPayload, 1));
    for (int64_t i = 0; i < count; ++i) {
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(
            +[](int* calls) { return *calls < kMostCalls; }, &calls_));
        ++calls_;
      }
      Start(request);
    }
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](int* calls) { return *calls == 0; }, &calls_));
    Check(failure_);
  }

  v1::GetUsageReply GetUsage() override {
    grpc::ClientContext context;
    v1::GetUsageReply reply;
    Check(ToAbsl(stub_->GetUsage(&context, v1::GetUsageRequest(), &reply)));
    return reply;
  }

 private:
  static constexpr int kMostCalls = 256;

  struct Call {
    grpc::ClientContext context;
    v1::OperateReply reply;
  };

  void Start(const v1::OperateRequest& request) {
    auto* const call = new Call;
    stub_->async()->Operate(&call->context, &request, &call->reply,
                            [this, call](const grpc::Status& status) {
                              delete call;
                              absl::MutexLock lock(&mutex_);
                              failure_.Update(ToAbsl(status));
                              --calls_;
                            });
  }

  const std::unique_ptr<v1::Work::Stub> stub_;

  absl::Mutex mutex_;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

std::unique_ptr<Path> ConnectStream(const std::string& socket) {
  return std::make_unique<StreamPath>(socket);
}

std::unique_ptr<Path> ConnectBuffer(const std::string& socket) {
  return std::make_unique<BufferPath>(socket);
}

std::unique_ptr<Path> ConnectUnary(const std::string& socket) {
  return std::make_unique<UnaryPath>(socket);
}

}  // namespace runloop::benchmark

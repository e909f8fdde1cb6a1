// How the cost of a dispatch grows in one process: with the depth of the queue, and with how many
// operations are registered. Prints one line a figure.

#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/work.h"

namespace runloop::benchmark {
namespace {

constexpr int kSizes[] = {1, 10, 100, 1'000, 10'000};
constexpr int64_t kDispatches = 300'000;

std::unique_ptr<Runtime> Start(OperationRegistry operations) {
  return Check(
      Runtime::Create({.operations = std::move(operations), .thread = RuntimeThread::kSpawn}));
}

// ---- depth ----

// Items that circulate: each that runs puts another at the end of the queue, whose depth stays the
// same. All of it is the runtime thread's, but for Await.
class Circle {
 public:
  // `post` queues one more item, which calls Turn.
  Circle(int depth, std::function<void()> post) : depth_(depth), post_(std::move(post)) {}

  void Start() {
    for (int i = 0; i < depth_; ++i) post_();
  }
  void Turn() {
    if (turns_ == depth_) begin_ = Now();  // each has been round once
    if (++turns_ <= depth_ + count_) return post_();
    if (turns_ == depth_ + count_ + 1) end_ = Now();
    if (turns_ == 2 * depth_ + count_) done_.Notify();  // the queue is empty
  }
  // How long one dispatch took, in nanoseconds.
  double Await() {
    done_.WaitForNotification();
    return double(end_ - begin_) / double(count_);
  }

 private:
  const int depth_;
  const std::function<void()> post_;
  const int64_t count_ = FloodSize(kDispatches);
  int64_t turns_ = 0, begin_ = 0, end_ = 0;
  absl::Notification done_;
};

double ClosureCost(int depth) {
  const std::unique_ptr<Runtime> runtime = Start({});
  const LocalRuntimeContext context = runtime->context();
  std::optional<Circle> circle;
  circle.emplace(depth, [&] { Check(context.RunOnRuntimeThreadAsync([&] { circle->Turn(); })); });
  Check(context.RunOnRuntimeThreadAsync([&] { circle->Start(); }));
  return circle->Await();
}

double OperationCost(int depth) {
  std::optional<Circle> circle;
  OperationRegistry operations;
  Check(operations.Register<v1::OperateRequest, v1::OperateReply>(
      kOperate, [&](OperationContext&, const v1::OperateRequest&) {
        circle->Turn();
        return v1::OperateReply();
      }));
  const std::unique_ptr<Runtime> runtime = Start(std::move(operations));
  const RuntimeContext context = runtime->context().AsRuntimeContext("benchmark");
  const v1::OperateRequest request = MakeRequest(std::string(kSmallPayload, 1));
  circle.emplace(depth, [&] { context.DispatchAsync(kOperate, request); });
  Check(runtime->context().RunOnRuntimeThreadAsync([&] { circle->Start(); }));
  return circle->Await();
}

// ---- operations registered ----

// Makes a service of `count` methods known as if its generated code were linked in, and names them.
std::vector<std::string> LinkMethods(int count) {
  const auto* const work = v1::OperateRequest::descriptor()->file();
  google::protobuf::FileDescriptorProto file;
  file.set_name(absl::StrCat("many_", count, ".proto"));
  file.set_syntax("proto3");
  file.set_package(absl::StrCat("runloop.benchmark.many", count));
  file.add_dependency(work->name());
  google::protobuf::ServiceDescriptorProto& service = *file.add_service();
  service.set_name("Service");
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) {
    google::protobuf::MethodDescriptorProto& method = *service.add_method();
    method.set_name(absl::StrCat("Operation", i));
    method.set_input_type("." + v1::OperateRequest::descriptor()->full_name());
    method.set_output_type("." + v1::OperateReply::descriptor()->full_name());
    names.push_back(absl::StrCat(file.package(), ".Service/", method.name()));
  }
  // The pool keeps the bytes.
  static auto& encoded = *new std::vector<std::unique_ptr<std::string>>();
  const std::string& bytes =
      *encoded.emplace_back(std::make_unique<std::string>(file.SerializeAsString()));
  google::protobuf::DescriptorPool::InternalAddGeneratedFile(bytes.data(),
                                                             static_cast<int>(bytes.size()));
  return names;
}

// Dispatches each of the operations in turn, one after the other.
double RegisteredCost(const std::vector<std::string>& names) {
  OperationRegistry operations;
  for (const std::string& name : names) {
    Check(operations.Register<v1::OperateRequest, v1::OperateReply>(
        name, [](OperationContext&, const v1::OperateRequest&) { return v1::OperateReply(); }));
  }
  const std::unique_ptr<Runtime> runtime = Start(std::move(operations));
  const RuntimeContext context = runtime->context().AsRuntimeContext("benchmark");
  const v1::OperateRequest request = MakeRequest(std::string(kSmallPayload, 1));
  const int64_t count = FloodSize(kDispatches);
  constexpr int64_t kStep = 1024;
  const auto run = [&](int64_t some) {
    std::optional<Invocation> last;
    for (int64_t i = 1; i <= some; ++i) {
      Invocation invocation = context.DispatchAsync(names[size_t(i) % names.size()], request);
      if (i % kStep != 0 && i != some) continue;
      if (last) Check(last->Await());
      last = std::move(invocation);
    }
    Check(last->Await());
  };
  run(int64_t(names.size()));
  const int64_t begin = Now();
  run(count);
  return double(Now() - begin) / double(count);
}

void Main() {
  Pin(Side::kCaller);  // and so the runtime's thread, which this one starts
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // as runloopd does
  for (const int size : kSizes) {
    const auto print = [&](std::string_view what, double ns) {
      Print("runloop", what, absl::StrCat("cost_", size), ns, "ns");
    };
    if (Wanted("depth")) {
      print("depth_closure", ClosureCost(size));
      print("depth_operation", OperationCost(size));
    }
    if (Wanted("operations")) print("operations", RegisteredCost(LinkMethods(size)));
  }
}

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  try {
    runloop::benchmark::Main();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "growth: %s\n", error.what());
    return 1;
  }
}

#include "runloop/client/processor.h"

#include <iostream>
#include <set>
#include <stdexcept>
#include <string>

#include "runloop/test/v1/test_operations.pb.h"

// runloop_test_processor [WORD...]: a processor that misbehaves as the words say, and tells on
// stdout which of its methods is called.
//
//   setup-fails process-fails teardown-fails   the method returns an error
//   setup-throws process-throws teardown-throws   it throws
//   endless   Process never says that it is done

namespace {

using runloop::Processor;
using runloop::RuntimeContext;
using runloop::test::v1::EchoReply;
using runloop::test::v1::EchoRequest;

class TestProcessor : public Processor {
 public:
  explicit TestProcessor(std::set<std::string> words) : words_(std::move(words)) {}

  absl::Status Setup(const RuntimeContext& context) override {
    context_ = context;
    return Step("setup");
  }

  absl::StatusOr<Next> Process() override {
    if (absl::Status stepped = Step("process"); !stepped.ok()) return stepped;
    EchoRequest request;
    request.set_text("from a processor");
    const absl::StatusOr<EchoReply> reply = context_->DispatchBlocking<EchoReply>(
        "runloop.test.v1.TestOperations/Echo", std::move(request));
    if (!reply.ok()) return reply.status();
    return words_.contains("endless") ? Next::kContinue : Next::kDone;
  }

  absl::Status Teardown() override { return Step("teardown"); }

 private:
  // Tells the first call of a step only.
  absl::Status Step(const std::string& name) {
    if (told_.insert(name).second) std::cout << name << std::endl;
    if (words_.contains(name + "-throws")) throw std::runtime_error(name + " threw");
    if (words_.contains(name + "-fails")) return absl::DataLossError(name + " failed");
    return absl::OkStatus();
  }

  const std::set<std::string> words_;
  std::set<std::string> told_;
  std::optional<RuntimeContext> context_;
};

}  // namespace

int main(int argc, char** argv) {
  TestProcessor processor(std::set<std::string>(argv + 1, argv + argc));
  return runloop::RunProcessor(processor, {.connect_timeout = absl::Milliseconds(500)});
}

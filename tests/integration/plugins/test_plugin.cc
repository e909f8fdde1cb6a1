#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "runloop/client/connect.h"
#include "runloop/runtime/plugin.h"
#include "runloop/test/v1/test_control.pb.h"
#include "runloop/tests/testing/test_buffers.h"
#include "runloop/tests/testing/test_operations.h"
#include "runloop/tests/testing/test_topics.h"

// The test operations, for tests that are processes of their own: see test_control.proto.

namespace runloop {
namespace {

using test::v1::GetRecordReply;
using test::v1::GetRecordRequest;
using test::v1::RelayReply;
using test::v1::RelayRequest;
using test::v1::SteerReply;
using test::v1::SteerRequest;

// Carries out the commands that come by `fifo`, until the process ends.
void ObeyForEver(TestOperations& tests, const std::string& fifo) {
  for (;;) {
    std::ifstream commands(fifo);
    if (!commands) return;
    for (std::string line; std::getline(commands, line);) {
      if (line == "let-go") {
        tests.LetGo();
      } else if (line.rfind("finish ", 0) == 0) {
        test::v1::DeferReply reply;
        reply.set_text(line.substr(7));
        tests.TakeDeferred().Finish(std::move(reply));
      }
    }
  }
}

constexpr char kRelay[] = "runloop.test.v1.TestControl/Relay";

RelayReply Relay(TestOperations& tests, RelayRequest request) {
  RelayReply reply;
  if (request.holds_first()) tests.HoldThread();
  if (request.addresses().empty()) return reply;
  const absl::StatusOr<RuntimeContext> next = Connect({.address = request.addresses(0)});
  RelayRequest rest;
  for (int i = 1; i < request.addresses_size(); ++i) rest.add_addresses(request.addresses(i));
  const absl::StatusOr<RelayReply> outcome =
      next.ok() ? next->DispatchBlocking<RelayReply>(kRelay, rest) : next.status();
  reply.set_error(outcome.ok() ? outcome->error() : outcome.status().ToString());
  return reply;
}

absl::Status RegisterAll(OperationRegistry& operations) {
  const std::shared_ptr<TestOperations> tests = TestOperations::Register(operations);
  RegisterTestBuffers(operations);
  RegisterTestTopics(operations);

  absl::Status added = operations.Register<SteerRequest, SteerReply>(
      "runloop.test.v1.TestControl/Steer",
      [tests](OperationContext&, SteerRequest request) -> absl::StatusOr<SteerReply> {
        std::thread([tests, fifo = request.fifo()] { ObeyForEver(*tests, fifo); }).detach();
        return SteerReply();
      });
  if (!added.ok()) return added;

  added = operations.Register<RelayRequest, RelayReply>(
      kRelay, [tests](OperationContext&, RelayRequest request) -> absl::StatusOr<RelayReply> {
        return Relay(*tests, std::move(request));
      });
  if (!added.ok()) return added;

  return operations.Register<GetRecordRequest, GetRecordReply>(
      "runloop.test.v1.TestControl/GetRecord",
      [tests](OperationContext&, GetRecordRequest) -> absl::StatusOr<GetRecordReply> {
        GetRecordReply reply;
        for (const auto& [producer, index] : tests->record()) {
          reply.add_producers(producer);
          reply.add_indices(index);
        }
        for (std::string& id : tests->ended_sessions()) reply.add_ended_sessions(std::move(id));
        return reply;
      });
}

}  // namespace
}  // namespace runloop

RUNLOOP_PLUGIN("test", &runloop::RegisterAll);

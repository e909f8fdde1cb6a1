#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <optional>
#include <string>

#include "runloop/client/connect.h"
#include "runloop/test/v1/test_operations.pb.h"

// runloop_test_producer NUMBER COUNT [PRIORITY]: dispatches COUNT Records, as fast as it can, in
// one session. Says `ready` once it is connected, starts when a line comes on stdin, ends with
// `done COUNT`. COUNT 0: goes on until it is killed, and says `sent N` from time to time.

namespace {

using runloop::Invocation;
using runloop::RuntimeContext;
using runloop::test::v1::RecordReply;
using runloop::test::v1::RecordRequest;

constexpr char kRecord[] = "runloop.test.v1.TestOperations/Record";
// Unfinished invocations that it lets gather before it waits for the first of them.
constexpr size_t kWindow = 8192;
// Every so many items: one is sent blocking, in order with the others; or how many there were is
// said.
constexpr uint64_t kMark = 5000;

void Say(const std::string& line) { std::cout << line << std::endl; }

[[noreturn]] void Fail(const std::string& what, const absl::Status& status) {
  std::cerr << "producer: " << what << ": " << status << std::endl;
  std::exit(1);
}

void AwaitFirst(std::deque<Invocation>& unfinished) {
  const absl::Status outcome = unfinished.front().Await(absl::Minutes(2));
  if (!outcome.ok()) Fail("a dispatch", outcome);
  unfinished.pop_front();
}

RecordRequest Item(uint32_t producer, uint64_t index) {
  RecordRequest request;
  request.set_producer(producer);
  request.set_index(index);
  return request;
}

}  // namespace

int main(int argc, char** argv) {
  const std::optional<runloop::Priority> priority =
      runloop::PriorityOf(argc == 4 ? argv[3] : "default");
  if (argc < 3 || argc > 4 || !priority.has_value()) {
    std::cerr << "usage: runloop_test_producer NUMBER COUNT [PRIORITY]" << std::endl;
    return 64;
  }
  const auto producer = static_cast<uint32_t>(std::strtoul(argv[1], nullptr, 10));
  const uint64_t count = std::strtoull(argv[2], nullptr, 10);

  const absl::StatusOr<RuntimeContext> context =
      runloop::Connect({.client_name = std::string("producer-") + argv[1], .priority = *priority});
  if (!context.ok()) Fail("connect", context.status());
  Say("ready");
  std::string go;
  if (!std::getline(std::cin, go)) return 1;

  const bool endless = count == 0;
  std::deque<Invocation> unfinished;
  for (uint64_t index = 0; endless || index < count; ++index) {
    const bool at_mark = index % kMark == kMark - 1;
    if (at_mark && endless) Say("sent " + std::to_string(index));
    if (at_mark && !endless) {
      const absl::StatusOr<RecordReply> reply =
          context->DispatchBlocking<RecordReply>(kRecord, Item(producer, index));
      if (!reply.ok()) Fail("a blocking dispatch", reply.status());
    } else {
      unfinished.push_back(context->DispatchAsync(kRecord, Item(producer, index)));
    }
    if (unfinished.size() >= kWindow) AwaitFirst(unfinished);
  }
  while (!unfinished.empty()) AwaitFirst(unfinished);
  Say("done " + std::to_string(count));
  return 0;
}

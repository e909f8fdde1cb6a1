// The least that a flood by a ring could cost: requests are written into it, read, parsed and run
// on, and nothing else is done. No ids are kept, nothing is ordered, bounded, timed or told. Prints
// one line a figure.

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <vector>

#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "runloop/client/request_writer.h"
#include "runloop/daemon/session_request_reader.h"
#include "runloop/ipc/ring.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/work.h"

namespace runloop::benchmark {
namespace {

constexpr size_t kRingBytes = size_t{256} << 10;
constexpr uint64_t kMaxMessage = 1 << 20;
constexpr int64_t kMaxUnfinished = 100'000;

void Write(RingEnd end, int64_t count, int64_t each) {
  const v1::OperateRequest request = MakeRequest(std::string(kSmallPayload, 1));
  internal::RequestWriter message;
  std::vector<std::string_view> pieces;
  for (int64_t i = 1; i <= count; ++i) {
    internal::RequestWriter::Dispatch dispatch{.invocation_id = static_cast<uint64_t>(i),
                                               .operation_id = 1};
    dispatch.SetRequest(request);
    message.AddDispatch(dispatch);
    if (i % each != 0 && i != count) continue;
    pieces.clear();
    message.AppendPieces(pieces);
    Check(end.writer().Write(pieces));
    while (end.writer().left() > 0) {
      while (!end.writer().has_room()) sched_yield();
      Check(end.writer().Flush());
    }
    message.Clear();
  }
}

void Read(RingEnd end, int64_t count) {
  daemon::SessionRequestReader reader(kMaxUnfinished);
  v1::OperateRequest request;
  uint64_t sum = 0;
  for (int64_t ran = 0; ran < count;) {
    const auto message = Check(end.reader().Next());
    if (!message.has_value()) {
      sched_yield();
      continue;
    }
    Check(reader.Read(*message));
    for (const daemon::DispatchView& dispatch : reader.dispatches()) {
      Check(request.ParseFromArray(dispatch.request.data(),
                                   static_cast<int>(dispatch.request.size())),
            "a request does not parse");
      sum += Sum(request.payload());
      ++ran;
    }
    reader.Clear();
  }
  Check(sum == static_cast<uint64_t>(count) * Sum(std::string(kSmallPayload, 1)), "wrong sum");
}

void Measure(int64_t count, int64_t each) {
  const RingMemory memory = Check(RingMemory::Create(kRingBytes, kRingBytes));
  const int64_t begin = Now();
  const pid_t writer = fork();
  if (writer == 0) {
    Write(memory.NewEnd(RingEnd::Side::kWorker, kMaxMessage), count, each);
    _exit(0);
  }
  Read(memory.NewEnd(RingEnd::Side::kDaemon, kMaxMessage), count);
  const int64_t took = Now() - begin;
  Check(waitpid(writer, nullptr, 0) == writer, "the writer has gone");
  Print("ring_floor", "B2", absl::StrCat("rate_", each, "_a_message"),
        double(count) * 1e3 / double(took), "Mreq/s");
}

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  for (const int64_t each : {1, 32}) {
    runloop::benchmark::Measure(runloop::benchmark::FloodSize(1'000'000), each);
  }
}

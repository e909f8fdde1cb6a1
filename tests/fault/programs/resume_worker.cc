#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <random>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "runloop/client/connect.h"
#include "runloop/ipc/address.h"
#include "runloop/runtime/error.h"
#include "runloop/test/v1/test_operations.pb.h"
#include "runloop/tests/testing/cut_connections.h"

// runloop_resume_worker PRODUCER COUNT SECONDS stream|ring: dispatches Record with the indices from
// 0 to COUNT - 1, evenly over so many seconds, some alone and some in batches, and cuts its own
// connections now and then. Each producer has the next priority. Prints
// `started`, and at the end `succeeded N failed N lost N cuts N`: what each dispatch came to, how
// many sessions were lost, and how many connections were cut.

namespace {

using runloop::Invocation;
using runloop::RuntimeContext;
using runloop::test::v1::RecordReply;
using runloop::test::v1::RecordRequest;

constexpr char kRecord[] = "runloop.test.v1.TestOperations/Record";
constexpr size_t kWindow = 500;
constexpr uint64_t kMostTogether = 40;
constexpr runloop::Priority kPriorities[] = {
    runloop::Priority::kInteractive, runloop::Priority::kDefault, runloop::Priority::kBackground};
// Between two cuts.
constexpr int kMostMillis = 400;

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: runloop_resume_worker PRODUCER COUNT SECONDS stream|ring" << std::endl;
    return 64;
  }
  const auto producer = static_cast<uint32_t>(std::atoi(argv[1]));
  const auto count = static_cast<uint64_t>(std::atoll(argv[2]));
  const absl::Duration duration = absl::Seconds(std::atof(argv[3]));
  const absl::StatusOr<runloop::Address> address = runloop::DefaultAddress();
  if (!address.ok()) return 1;

  std::atomic<uint64_t> lost{0}, cuts{0};
  absl::StatusOr<RuntimeContext> context =
      runloop::Connect({.client_name = absl::StrCat("resume-", producer),
                        .priority = kPriorities[producer % 3],
                        .connect_timeout = absl::Minutes(1),
                        .ring = std::string(argv[4]) == "ring",
                        .on_session_lost = [&](const runloop::SessionLost&) { ++lost; }});
  if (!context.ok()) {
    std::cerr << "resume_worker: connect: " << context.status() << std::endl;
    return 1;
  }
  std::cout << "started" << std::endl;

  absl::Mutex mutex;
  bool done = false;
  std::thread cutter([&] {
    std::mt19937 random(producer);
    absl::MutexLock lock(&mutex);
    while (!mutex.AwaitWithTimeout(absl::Condition(&done),
                                   absl::Milliseconds(1 + random() % kMostMillis))) {
      const int only = random() % 2 == 0 ? -1 : static_cast<int>(random() % 4);
      cuts += static_cast<uint64_t>(runloop::CutConnections(address->path, only));
    }
  });

  uint64_t succeeded = 0, failed = 0;
  const auto await = [&](const Invocation& invocation) {
    const absl::Status outcome = invocation.Await();
    if (outcome.ok()) {
      ++succeeded;
      return;
    }
    if (++failed <= 10) std::cerr << "resume_worker: " << outcome << std::endl;
  };
  std::deque<Invocation> unfinished;
  std::mt19937 random(producer + 1000);
  const absl::Time begin = absl::Now();
  const auto item = [&](uint64_t index) {
    RecordRequest request;
    request.set_producer(producer);
    request.set_index(index);
    return request;
  };
  for (uint64_t index = 0; index < count;) {
    // Both ways of being told, alone or not.
    const bool reply = random() % 4 == 0;
    if (random() % 20 != 0) {
      unfinished.push_back(reply ? context->DispatchAsync<RecordReply>(kRecord, item(index))
                                 : context->DispatchAsync(kRecord, item(index)));
      ++index;
    } else {
      runloop::Batch batch;
      for (uint64_t left = 1 + random() % kMostTogether; left > 0 && index < count; --left) {
        reply ? batch.Add<RecordReply>(kRecord, item(index)) : batch.Add(kRecord, item(index));
        ++index;
      }
      for (Invocation& one : context->DispatchBatch(std::move(batch))) {
        unfinished.push_back(std::move(one));
      }
    }
    if (unfinished.size() < kWindow) continue;
    for (size_t i = 0; i < kWindow / 2; ++i) {
      await(unfinished.front());
      unfinished.pop_front();
    }
    const absl::Time due =
        begin + duration * (static_cast<double>(index) / static_cast<double>(count));
    absl::SleepFor(due - absl::Now());
  }
  for (const Invocation& invocation : unfinished) await(invocation);
  {
    absl::MutexLock lock(&mutex);
    done = true;
  }
  cutter.join();
  std::cout << "succeeded " << succeeded << " failed " << failed << " lost " << lost << " cuts "
            << cuts << std::endl;
  return 0;
}

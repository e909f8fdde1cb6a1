#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/client/connect.h"
#include "runloop/ipc/address.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"
#include "runloop/test/v1/test_operations.pb.h"
#include "runloop/tests/testing/cut_connections.h"

// runloop_fault_worker NAME [stream|ring [resume|lose]]: one session, whose messages go by the
// stream alone or by a ring, and which is resumed or lost with its connection, steered by lines on
// stdin; answers by lines on stdout. Says `ready` once it is connected.
//
// - `async ID WHAT` dispatches and says `sent ID`; `blocking ID WHAT` does so on a thread of its
//   own.
// - `peek ID` says `peek ID done` or `peek ID pending`.
// - `await ID` says `outcome ID CODE REASON` once it is known; REASON may be `-`.
// - `cancel ID`.
// - `cut` cuts its own connections, and says `cut`.
//
// WHAT: `echo TEXT`, `record PRODUCER INDEX`, `hold`, `defer`, or `plug BYTES`: an operation that
// does not exist with a request of that many bytes, which keeps what follows it from being sent.
// It ends, at once and whatever is unfinished, when stdin does.

namespace {

using runloop::DispatchOptions;
using runloop::Invocation;
using runloop::RuntimeContext;
using namespace runloop::test::v1;  // NOLINT(google-build-using-namespace): the test's messages

constexpr char kService[] = "runloop.test.v1.TestOperations/";
// A daemon that is there answers sooner; one that drains is asked again for so long.
constexpr absl::Duration kConnectTimeout = absl::Milliseconds(300);
constexpr absl::Duration kFirstConnect = absl::Seconds(30);

void Say(const std::string& line) {
  static absl::Mutex mutex(absl::kConstInit);
  absl::MutexLock lock(&mutex);
  std::cout << line << std::endl;
}

std::string Describe(const absl::Status& status) {
  const auto reason = runloop::ReasonOf(status);
  const std::string prefix = "ERROR_REASON_";
  return absl::StrCat(absl::StatusCodeToString(status.code()), " ",
                      reason == runloop::v1::ERROR_REASON_UNSPECIFIED
                          ? "-"
                          : runloop::v1::ErrorReason_Name(reason).substr(prefix.size()));
}

// A call that is asynchronous, or one that a thread blocks in.
class Dispatched {
 public:
  explicit Dispatched(Invocation invocation) : invocation_(std::move(invocation)) {}
  explicit Dispatched(std::function<absl::Status()> call)
      : thread_([this, call = std::move(call)] {
          absl::Status status = call();
          absl::MutexLock lock(&mutex_);
          status_ = std::move(status);
        }) {}

  bool done() const {
    if (invocation_) return invocation_->done();
    absl::MutexLock lock(&mutex_);
    return has_status();
  }
  absl::Status Await() const {
    if (invocation_) return invocation_->Await();
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &Dispatched::has_status));
    return *status_;
  }
  void Cancel() const {
    if (invocation_) invocation_->Cancel();
  }

 private:
  bool has_status() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return status_.has_value(); }

  mutable absl::Mutex mutex_;
  std::optional<absl::Status> status_ ABSL_GUARDED_BY(mutex_);
  const std::optional<Invocation> invocation_;
  std::thread thread_;
};

struct How {
  bool blocking = false;
  absl::Duration timeout = absl::InfiniteDuration();
};

// Nothing: it is another command.
std::optional<How> ParseHow(const std::string& command) {
  const size_t colon = command.find(':');
  const std::string word = command.substr(0, colon);
  if (word != "async" && word != "blocking") return std::nullopt;
  How how = {.blocking = word == "blocking"};
  if (colon != command.npos) {
    how.timeout = absl::Milliseconds(std::strtol(command.c_str() + colon + 1, nullptr, 10));
  }
  return how;
}

template <typename Reply, typename Request>
std::unique_ptr<Dispatched> Dispatch(const RuntimeContext& context, const How& how,
                                     const std::string& method, Request request) {
  const std::string operation = kService + method;
  const DispatchOptions options = {.timeout = how.timeout};
  if (!how.blocking) {
    return std::make_unique<Dispatched>(
        context.DispatchAsync<Reply>(operation, std::move(request), options));
  }
  return std::make_unique<Dispatched>([context, operation, options, request = std::move(request)] {
    return context.DispatchBlocking<Reply>(operation, request, options).status();
  });
}

// Null: not understood.
std::unique_ptr<Dispatched> Start(const RuntimeContext& context, const How& how,
                                  std::istream& words) {
  std::string what;
  words >> what;
  if (what == "hold") return Dispatch<HoldReply>(context, how, "Hold", HoldRequest());
  if (what == "defer") return Dispatch<DeferReply>(context, how, "Defer", DeferRequest());
  if (what == "record") {
    uint32_t producer = 0;
    uint64_t index = 0;
    words >> producer >> index;
    RecordRequest request;
    request.set_producer(producer);
    request.set_index(index);
    return Dispatch<RecordReply>(context, how, "Record", std::move(request));
  }
  EchoRequest request;
  if (what == "echo") {
    words >> *request.mutable_text();
    return Dispatch<EchoReply>(context, how, "Echo", std::move(request));
  }
  if (what == "plug") {
    size_t bytes = 0;
    words >> bytes;
    request.mutable_payload()->resize(bytes);
    return Dispatch<EchoReply>(context, how, "NoSuchOperation", std::move(request));
  }
  return nullptr;
}

absl::StatusOr<RuntimeContext> ConnectFirst(const std::string& name, bool ring, bool resume) {
  const absl::Time deadline = runloop::Clock::Monotonic()->Now() + kFirstConnect;
  while (true) {
    absl::StatusOr<RuntimeContext> context = runloop::Connect(
        {.client_name = name, .connect_timeout = kConnectTimeout, .ring = ring, .resume = resume});
    if (context.ok() || runloop::Clock::Monotonic()->Now() > deadline) return context;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string transport = argc > 2 ? argv[2] : "ring";
  const std::string lost = argc > 3 ? argv[3] : "resume";
  if ((transport != "stream" && transport != "ring") || (lost != "resume" && lost != "lose")) {
    std::cerr << "usage: runloop_fault_worker NAME [stream|ring [resume|lose]]" << std::endl;
    return 64;
  }
  const absl::StatusOr<RuntimeContext> context =
      ConnectFirst(argc > 1 ? argv[1] : "worker", transport == "ring", lost == "resume");
  if (!context.ok()) {
    std::cerr << "worker: connect: " << context.status() << std::endl;
    return 1;
  }
  Say("ready");

  std::map<std::string, std::unique_ptr<Dispatched>> all;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command, id;
    words >> command >> id;
    if (command == "cut") {
      runloop::CutConnections(runloop::DefaultAddress()->path);
      Say("cut");
      continue;
    }
    if (const std::optional<How> how = ParseHow(command)) {
      all[id] = Start(*context, *how, words);
      if (all[id] == nullptr) {
        std::cerr << "worker: not understood: " << line << std::endl;
        return 64;
      }
      Say("sent " + id);
      continue;
    }
    const auto found = all.find(id);
    if (found == all.end()) {
      std::cerr << "worker: not understood: " << line << std::endl;
      return 64;
    }
    const Dispatched& dispatched = *found->second;
    if (command == "peek") {
      Say(absl::StrCat("peek ", id, dispatched.done() ? " done" : " pending"));
    } else if (command == "cancel") {
      dispatched.Cancel();
    } else if (command == "await") {
      // On a thread of its own, so that further commands are taken.
      std::thread([id, &dispatched] {
        Say(absl::StrCat("outcome ", id, " ", Describe(dispatched.Await())));
      }).detach();
    }
  }
  std::_Exit(0);
}

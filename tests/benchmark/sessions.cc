// Many sessions, each of a worker process of its own: what an idle one costs the daemon, and how
// the cost of a dispatch grows with their number. Prints one line a figure.

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "runloop/tests/benchmark/child_process.h"
#include "runloop/tests/benchmark/daemon.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/path.h"
#include "runloop/tests/benchmark/work.h"

ABSL_FLAG(int, most, 200, "how many workers there are in the end");
ABSL_FLAG(absl::Duration, idle, absl::Seconds(6), "how long idle sessions are watched");
// The driver gives these to the processes that it starts.
ABSL_FLAG(std::string, role, "driver", "driver, daemon or worker");
ABSL_FLAG(std::string, socket, "", "where the daemon listens");

namespace runloop::benchmark {
namespace {

constexpr int kWorkers[] = {1, 2, 5, 10, 20, 50, 100, 200};
constexpr int64_t kDispatches = 400'000;
// The largest message that a daemon takes has 64 MiB.
constexpr size_t kLargestPayload = size_t{16} << 20;
constexpr size_t kLargestBuffer = size_t{64} << 20;

// ---- a worker ----

// Does what it is told by lines `flood N`, `block N PAYLOAD` and `buffer N PAYLOAD`, and answers
// each with a number.
int Work(const std::string& socket) {
  Pin(Side::kCaller);
  const std::unique_ptr<Path> path = ConnectStream(socket);
  std::unique_ptr<Path> buffer_path;
  const auto answer = [](int64_t number) {
    std::printf("%lld\n", static_cast<long long>(number));
    std::fflush(stdout);
  };
  path->Operate(std::string(kSmallPayload, 1));
  answer(0);
  char what[16];
  long long count = 0;
  while (std::scanf("%15s %lld", what, &count) == 2) {
    if (what == std::string_view("flood")) {
      path->Flood(count);
      answer(Now());  // when it was done
    } else {
      size_t size = 0;
      Check(std::scanf("%zu", &size) == 1, "no size");
      const bool by_buffer = what == std::string_view("buffer");
      if (by_buffer && buffer_path == nullptr) buffer_path = ConnectBufferStart(socket);
      Path& way = by_buffer ? *buffer_path : *path;
      const std::string payload(size, 1);
      way.Operate(payload);
      const Samples samples = MeasureCalls([&] { way.Operate(payload); }, int(count));
      answer(int64_t(samples.Quantile(0.5)));  // how long one took
    }
  }
  return 0;
}

// ---- the driver ----

class Worker {
 public:
  explicit Worker(std::vector<std::string> arguments) : process_(std::move(arguments)) {}

  void Tell(const std::string& line) { process_.WriteLine(line); }
  int64_t Answer() {
    int64_t number = 0;
    Check(absl::SimpleAtoi(process_.ReadLine().value_or(""), &number), "a worker ended early");
    return number;
  }

 private:
  ChildProcess process_;
};

// The number that follows `key` in a file of /proc.
int64_t ReadField(const std::filesystem::path& file, std::string_view key) {
  std::ifstream stream(file);
  for (std::string word; stream >> word;) {
    int64_t number = 0;
    if (word == key && stream >> number) return number;
  }
  throw std::runtime_error(absl::StrCat("no ", std::string(key), " in ", file.string()));
}

class Driver {
 public:
  // `arguments` are handed on to every process.
  explicit Driver(std::vector<std::string> arguments) : arguments_(std::move(arguments)) {
    directory_ = (std::filesystem::temp_directory_path() / "runloop-benchmark-XXXXXX").string();
    Check(mkdtemp(directory_.data()) != nullptr, "cannot make a directory");
    arguments_.push_back(absl::StrCat("--socket=", directory_, "/socket"));
    std::vector<std::string> daemon = arguments_;
    daemon.push_back("--role=daemon");
    daemon_.emplace(std::move(daemon));
    Check(daemon_->ReadLine() == "ready", "the daemon did not start");
  }
  ~Driver() {
    workers_.clear();
    daemon_.reset();
    std::filesystem::remove_all(directory_);
  }

  void MeasureIdle() {
    Grow(std::min(20, absl::GetFlag(FLAGS_most)));  // what comes once is there
    const int few = int(workers_.size());
    const int64_t memory = Memory(), wakeups = Wakeups();
    Grow(few + absl::GetFlag(FLAGS_most));
    const double more = double(workers_.size()) - few;
    Print("runloop", "idle", "memory", double(Memory() - memory) / more, "KiB/session");
    Print("runloop", "idle", "wakeups", double(Wakeups() - wakeups) / more, "1/session");
  }

  void MeasureGrowth() {
    for (const int number : kWorkers) {
      if (number > absl::GetFlag(FLAGS_most)) break;
      Grow(number);
      Print("runloop", "sessions_flood", absl::StrCat("cost_", number), Flood(), "ns");
      Print("runloop", "sessions_blocking", absl::StrCat("cost_", number),
            Block(5000, kSmallPayload), "ns");
    }
  }

  // In messages.
  void MeasurePayload() {
    Grow(1);
    for (size_t size = kSmallPayload; size <= kLargestPayload; size *= 8) {
      Print("runloop", "payload", absl::StrCat("cost_", size), Block(100, size), "ns");
    }
  }

  // In buffers, of which the operation looks at the start.
  void MeasureBuffer() {
    Grow(1);
    const auto print = [&](size_t size) {
      Print("runloop", "buffer", absl::StrCat("cost_", size), Block(2000, size, "buffer"), "ns");
    };
    for (size_t size = kSmallPayload; size < kLargestBuffer; size *= 8) print(size);
    print(kLargestBuffer);
  }

 private:
  // Starts workers until there are `number`.
  void Grow(int number) {
    std::vector<std::string> arguments = arguments_;
    arguments.push_back("--role=worker");
    while (int(workers_.size()) < number) {
      Check(workers_.emplace_back(arguments).Answer() == 0, "a worker is out of step");
    }
  }

  // All at the same time, each its part; nanoseconds a dispatch.
  double Flood() {
    const int64_t each = FloodSize(kDispatches) / int64_t(workers_.size());
    const int64_t begin = Now();
    for (Worker& worker : workers_) worker.Tell(absl::StrCat("flood ", each));
    int64_t end = 0;
    for (Worker& worker : workers_) end = std::max(end, worker.Answer());
    return double(end - begin) / double(each * int64_t(workers_.size()));
  }

  // The newest worker, while the others are idle; nanoseconds a dispatch.
  double Block(int count, size_t payload, absl::string_view how = "block") {
    workers_.back().Tell(absl::StrCat(how, " ", count, " ", payload));
    return double(workers_.back().Answer());
  }

  std::filesystem::path Proc() const {
    return std::filesystem::path("/proc") / absl::StrCat(daemon_->pid());
  }
  // Of the daemon, in KiB: what no other process has, and no file. Does not include the kernel's.
  int64_t Memory() const {
    const std::filesystem::path status = Proc() / "status";
    return ReadField(status, "RssAnon:") + ReadField(status, "RssShmem:");
  }
  // How often a thread of the daemon gives up its processor while nothing is dispatched.
  int64_t Wakeups() const {
    absl::SleepFor(absl::GetFlag(FLAGS_idle) / 4);  // what was begun ends
    const int64_t before = Switches();
    absl::SleepFor(absl::GetFlag(FLAGS_idle));
    return Switches() - before;
  }
  int64_t Switches() const {
    int64_t switches = 0;
    for (const auto& thread : std::filesystem::directory_iterator(Proc() / "task")) {
      const std::filesystem::path status = thread.path() / "status";
      switches += ReadField(status, "voluntary_ctxt_switches:") +
                  ReadField(status, "nonvoluntary_ctxt_switches:");
    }
    return switches;
  }

  std::vector<std::string> arguments_;
  std::string directory_;
  std::optional<ChildProcess> daemon_;
  std::deque<Worker> workers_;
};

int Main(const std::vector<std::string>& arguments) {
  SetUpMutexes();
  const std::string role = absl::GetFlag(FLAGS_role);
  if (role != "driver") {
    BecomeChild();
    const std::string socket = absl::GetFlag(FLAGS_socket);
    return role == "daemon" ? ServeDaemon(socket) : Work(socket);
  }
  if (Wanted("idle")) Driver(arguments).MeasureIdle();
  if (Wanted("sessions")) Driver(arguments).MeasureGrowth();
  if (Wanted("payload")) Driver(arguments).MeasurePayload();
  if (Wanted("buffer")) Driver(arguments).MeasureBuffer();
  return 0;
}

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  try {
    return runloop::benchmark::Main(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sessions: %s\n", error.what());
    return 1;
  }
}

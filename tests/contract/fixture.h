#ifndef RUNLOOP_TESTS_CONTRACT_FIXTURE_H_
#define RUNLOOP_TESTS_CONTRACT_FIXTURE_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/client/connect.h"
#include "runloop/daemon/host.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/test_operations.h"

namespace runloop {

enum class Path { kLocal, kStream, kRing };

inline constexpr Path kPaths[] = {Path::kLocal, Path::kStream, Path::kRing};

inline std::string PathName(const testing::TestParamInfo<Path>& path) {
  switch (path.param) {
    case Path::kLocal:
      return "Local";
    case Path::kStream:
      return "Stream";
    case Path::kRing:
      return "Ring";
  }
  return "";
}

inline test::v1::EchoRequest Echo(std::string text) {
  test::v1::EchoRequest request;
  request.set_text(std::move(text));
  return request;
}

inline test::v1::RecordRequest Record(uint32_t producer, uint64_t index) {
  test::v1::RecordRequest request;
  request.set_producer(producer);
  request.set_index(index);
  return request;
}

// A runtime with the test operations, and contexts that reach it by the way that is the parameter.
class ContractTest : public testing::TestWithParam<Path> {
 protected:
  void Start(RuntimeThread thread = RuntimeThread::kSpawn, WorkBounds bounds = {}) {
    OperationRegistry registry;
    operations_ = TestOperations::Register(registry);
    RegisterMore(registry);
    runtime_ = *Runtime::Create({.operations = std::move(registry),
                                 .thread = thread,
                                 .bounds = bounds,
                                 .log = [](LogSeverity, std::string_view) {}});
    if (GetParam() != Path::kLocal) {
      directory_ = testing::TempDir() + "/runloop-contract-XXXXXX";
      ASSERT_NE(mkdtemp(directory_.data()), nullptr);
      absl::StatusOr<std::unique_ptr<Host>> host = Host::Start(
          *runtime_, {.listen = directory_ + "/s", .log = [](LogSeverity, std::string_view) {}});
      ASSERT_TRUE(host.ok()) << host.status();
      host_ = *std::move(host);
      // By its own name this process reaches it in process; by another it goes through the socket.
      std::filesystem::create_symlink(directory_ + "/s", directory_ + "/other-name");
    }
  }

  virtual void RegisterMore(OperationRegistry&) {}

  void TearDown() override {
    if (operations_) operations_->LetGo();  // in case a test failed while it held the thread
    host_.reset();
    runtime_.reset();
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }

  RuntimeContext Context() {
    const absl::StatusOr<RuntimeContext> context = TryContext();
    if (!context.ok()) throw std::runtime_error(context.status().ToString());
    if (GetParam() != Path::kLocal) AwaitTransport(GetParam() == Path::kRing ? "ring" : "stream");
    return *context;
  }

  // A worker that gets no ring goes on by the stream, and would pass as well. The host knows of a
  // ring a moment after the worker has it.
  void AwaitTransport(std::string_view name) {
    const absl::Time deadline = Clock::Monotonic()->Now() + absl::Seconds(60);
    const auto transport_is_other = [&] {
      const auto sessions = runtime_->GetSnapshot().sessions;
      return sessions.empty() ||
             std::any_of(sessions.begin(), sessions.end(),
                         [&](const auto& session) { return session->transport().name != name; });
    };
    while (transport_is_other()) {
      if (Clock::Monotonic()->Now() > deadline)
        throw std::runtime_error("a session has another transport");
      std::this_thread::yield();
    }
  }

  absl::StatusOr<RuntimeContext> TryContext() {
    if (GetParam() == Path::kLocal) return runtime_->context().AsRuntimeContext("contract");
    return Connect({.address = directory_ + "/other-name",
                    .client_name = "contract",
                    .ring = GetParam() == Path::kRing,
                    .internal = {.give_up_grace = absl::InfiniteDuration()}});
  }

  // Holds the runtime thread until LetGo.
  Invocation Hold(const RuntimeContext& context) {
    Invocation hold = context.DispatchAsync(kHold, test::v1::HoldRequest());
    operations_->AwaitHeld();
    return hold;
  }

  // The outcome of a call whose timeout passed while its operation held the runtime thread. How
  // long a timeout must be to be started in is the machine's to say: each call with a shorter one
  // never ran.
  template <typename Reply, typename Request>
  absl::Status TimeOutOnceStarted(const RuntimeContext& context, const std::string& operation,
                                  const Request& request) {
    for (absl::Duration timeout = absl::Milliseconds(50);; timeout *= 2) {
      const absl::Status status =
          context.DispatchBlocking<Reply>(operation, request, {.timeout = timeout}).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
      if (ReasonOf(status) != v1::ERROR_REASON_EXPIRED) return status;
    }
  }

  std::shared_ptr<TestOperations> operations_;
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Host> host_;
  std::string directory_;
};

}  // namespace runloop

#endif  // RUNLOOP_TESTS_CONTRACT_FIXTURE_H_

#include "runloop/runtime/local_context.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>

#include "absl/synchronization/notification.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/external_loop.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/fake_clock.h"
#include "runloop/tests/testing/spawn.h"
#include "runloop/tests/testing/test_operations.h"

namespace runloop {
namespace {

using testing::HasSubstr;

TEST(RunOnRuntimeThreadBlocking, GivesWhatTheClosureReturns) {
  auto runtime = Spawn();
  const LocalRuntimeContext context = runtime->context();
  const absl::StatusOr<int> number = context.RunOnRuntimeThreadBlocking([] { return 42; });
  ASSERT_TRUE(number.ok());
  EXPECT_EQ(*number, 42);
  const absl::StatusOr<std::unique_ptr<int>> owned = context.RunOnRuntimeThreadBlocking(
      [p = std::make_unique<int>(7)]() mutable { return std::move(p); });
  ASSERT_TRUE(owned.ok());
  EXPECT_EQ(**owned, 7);
}

TEST(RunOnRuntimeThreadAsync, CarriesNoTraceButWhatItCaptures) {
  using test::v1::EchoReply;
  using test::v1::EchoRequest;
  using test::v1::RecordReply;
  constexpr char kTrace[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  struct Traces {
    std::string in_place, inherited, captured;
  } traces;
  OperationRegistry operations;
  ASSERT_TRUE((operations.Register<EchoRequest, EchoReply>(kEcho, [](OperationContext& context,
                                                                     const EchoRequest&) {
                EchoReply reply;
                reply.set_text(std::string(context.trace_parent()));
                return reply;
              })).ok());
  ASSERT_TRUE(
      (operations.Register<test::v1::RecordRequest, RecordReply>(
           kRecord,
           [&](OperationContext& context,
               const test::v1::RecordRequest&) -> absl::StatusOr<RecordReply> {
             const LocalRuntimeContext local = context.runtime();
             const auto trace_of = [remote =
                                        local.AsRuntimeContext()](const DispatchOptions& options) {
               return remote.DispatchBlocking<EchoReply>(kEcho, EchoRequest(), options)->text();
             };
             traces.in_place =
                 *local.RunOnRuntimeThreadBlocking([&] { return trace_of(DispatchOptions()); });
             absl::Status posted = local.RunOnRuntimeThreadAsync(
                 [&, trace_of, kept = std::string(context.trace_parent())] {
                   traces.inherited = trace_of(DispatchOptions());
                   DispatchOptions options;
                   options.trace_parent = kept;
                   traces.captured = trace_of(options);
                 });
             if (!posted.ok()) return posted;
             return RecordReply();
           }))
          .ok());
  auto runtime = Spawn({.operations = std::move(operations)});
  DispatchOptions options;
  options.trace_parent = kTrace;
  const auto reply = runtime->context().AsRuntimeContext().DispatchBlocking<RecordReply>(
      kRecord, test::v1::RecordRequest(), options);
  ASSERT_TRUE(reply.ok()) << reply.status();
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadBlocking([] {}).ok());
  EXPECT_EQ(traces.in_place, kTrace);
  EXPECT_EQ(traces.inherited, "");
  EXPECT_EQ(traces.captured, kTrace);
}

TEST(RunOnRuntimeThreadBlocking, GivesAStatusForAClosureThatReturnsNothing) {
  auto runtime = Spawn();
  bool ran = false;
  const absl::Status status = runtime->context().RunOnRuntimeThreadBlocking([&ran] { ran = true; });
  EXPECT_TRUE(status.ok());
  EXPECT_TRUE(ran);
}

TEST(RunOnRuntimeThreadBlocking, PassesOnTheStatusAClosureReturns) {
  auto runtime = Spawn();
  EXPECT_EQ(runtime->context().RunOnRuntimeThreadBlocking([] { return absl::NotFoundError("no"); }),
            absl::NotFoundError("no"));
  const absl::StatusOr<int> nested =
      runtime->context().RunOnRuntimeThreadBlocking([]() -> absl::StatusOr<int> { return 3; });
  EXPECT_EQ(*nested, 3);
}

TEST(RunOnRuntimeThreadBlocking, RunsOnTheRuntimeThread) {
  auto runtime = Spawn();
  const LocalRuntimeContext context = runtime->context();
  EXPECT_FALSE(context.OnRuntimeThread());
  EXPECT_TRUE(*context.RunOnRuntimeThreadBlocking([context] { return context.OnRuntimeThread(); }));
}

TEST(RunOnRuntimeThreadBlocking, GivesInternalWithTheTextOfAnExceptionAndTheThreadGoesOn) {
  auto runtime = Spawn();
  const absl::Status thrown = runtime->context().RunOnRuntimeThreadBlocking(
      [] { throw std::runtime_error("the camera is on fire"); });
  EXPECT_EQ(thrown.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ReasonOf(thrown), v1::ERROR_REASON_HANDLER_THREW);
  EXPECT_THAT(std::string(thrown.message()), HasSubstr("the camera is on fire"));
  EXPECT_EQ(runtime->context().RunOnRuntimeThreadBlocking([]() -> int { throw 3; }).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(*runtime->context().RunOnRuntimeThreadBlocking([] { return 1; }), 1);
}

TEST(RunOnRuntimeThreadBlocking, RunsInPlaceOnTheBoundThreadBeforeTheLoopRuns) {
  auto runtime = *Runtime::Create({});
  const absl::StatusOr<std::thread::id> id =
      runtime->context().RunOnRuntimeThreadBlocking([] { return std::this_thread::get_id(); });
  EXPECT_EQ(*id, std::this_thread::get_id());
}

TEST(RunOnRuntimeThreadBlocking, RunsInPlaceInsideATaskInsteadOfDeadlocking) {
  auto runtime = Spawn();
  const LocalRuntimeContext context = runtime->context();
  const absl::StatusOr<int> nested = context.RunOnRuntimeThreadBlocking([context] {
    return *context.RunOnRuntimeThreadBlocking(
        [context] { return *context.RunOnRuntimeThreadBlocking([] { return 5; }); });
  });
  EXPECT_EQ(*nested, 5);
}

TEST(RunOnRuntimeThreadBlocking, InPlaceOvertakesWhatIsQueuedAndNothingElseDoes) {
  auto runtime = Spawn();
  const LocalRuntimeContext context = runtime->context();
  std::vector<int> order;
  ASSERT_TRUE(context
                  .RunOnRuntimeThreadBlocking([&] {
                    ASSERT_TRUE(context.RunOnRuntimeThreadAsync([&] { order.push_back(2); }).ok());
                    ASSERT_TRUE(
                        context.RunOnRuntimeThreadBlocking([&] { order.push_back(1); }).ok());
                  })
                  .ok());
  ASSERT_TRUE(context.RunOnRuntimeThreadBlocking([&] { order.push_back(3); }).ok());
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(RunOnRuntimeThreadBlocking, NotStartedAtItsDeadlineNeverRuns) {
  auto runtime = Spawn();
  const LocalRuntimeContext context = runtime->context();
  absl::Notification held, go;
  ASSERT_TRUE(context
                  .RunOnRuntimeThreadAsync([&] {
                    held.Notify();
                    go.WaitForNotification();
                  })
                  .ok());
  held.WaitForNotification();
  auto ran = std::make_shared<std::atomic<bool>>(false);
  const absl::Status expired =
      context.RunOnRuntimeThreadBlocking([ran] { *ran = true; }, absl::Milliseconds(1));
  EXPECT_EQ(expired.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(expired), v1::ERROR_REASON_EXPIRED);
  go.Notify();
  ASSERT_TRUE(context.RunOnRuntimeThreadBlocking([] {}).ok());
  EXPECT_FALSE(*ran);
  EXPECT_EQ(runtime->GetSnapshot().ledger.expired, 1u);
}

// Holds the runtime thread until it goes.
class Latch {
 public:
  explicit Latch(const Runtime& runtime) {
    EXPECT_TRUE(runtime.context()
                    .RunOnRuntimeThreadAsync([this] {
                      held_.Notify();
                      go_.WaitForNotification();
                    })
                    .ok());
    held_.WaitForNotification();
  }
  ~Latch() { go_.Notify(); }

 private:
  absl::Notification held_, go_;
};

TEST(RunOnRuntimeThreadBlocking, HasADeadlineThoughNobodyGaveItOne) {
  FakeClock clock;
  auto runtime = Spawn({.clock = &clock});
  const Latch latch(*runtime);
  absl::Status expired;
  std::atomic<bool> returned{false};
  std::thread caller([&] {
    expired = runtime->context().RunOnRuntimeThreadBlocking([] {});
    returned = true;
  });
  // Again and again: the caller may be on its way to its wait.
  while (!returned) {
    clock.Advance(absl::Seconds(30));
    std::this_thread::yield();
  }
  caller.join();
  EXPECT_EQ(ReasonOf(expired), v1::ERROR_REASON_EXPIRED) << expired;
}

TEST(DispatchBlocking, HasADeadlineThoughNobodyGaveItOne) {
  FakeClock clock;
  OperationRegistry registry;
  const auto operations = TestOperations::Register(registry);
  auto runtime = Spawn({.operations = std::move(registry), .clock = &clock});
  const Latch latch(*runtime);
  absl::Status expired;
  std::thread caller([&] {
    expired = runtime->context()
                  .AsRuntimeContext()
                  .DispatchBlocking<test::v1::EchoReply>(kEcho, test::v1::EchoRequest())
                  .status();
  });
  while (runtime->GetSnapshot().ledger.queued == 0) std::this_thread::yield();
  clock.Advance(absl::Seconds(30));
  while (runtime->GetSnapshot().ledger.expired == 0) std::this_thread::yield();
  caller.join();
  EXPECT_EQ(ReasonOf(expired), v1::ERROR_REASON_EXPIRED) << expired;
}

TEST(RunOnRuntimeThreadBlocking, ANestedCallEndsItselfAndNotTheOneAroundIt) {
  auto runtime = Spawn();
  const LocalRuntimeContext context = runtime->context();
  bool ended = false;
  ASSERT_TRUE(context
                  .RunOnRuntimeThreadBlocking([&] {
                    ASSERT_TRUE(context.RunOnRuntimeThreadBlocking([] {}).ok());
                    const Ledger::Counts ledger = runtime->GetSnapshot().ledger;
                    EXPECT_EQ(ledger.succeeded, 1u);
                    EXPECT_EQ(ledger.running, 1u);
                    ended = true;
                  })
                  .ok());
  EXPECT_TRUE(ended);
  EXPECT_EQ(runtime->GetSnapshot().ledger.succeeded, 2u);
}

TEST(DispatchBlocking, ANestedCallEndsItselfAndNotTheOneAroundIt) {
  absl::Notification known;
  std::optional<Invocation> outer;
  std::optional<RuntimeContext> context;
  OperationRegistry registry;
  ASSERT_TRUE((registry.Register<test::v1::EchoRequest, test::v1::EchoReply>(
                   kEcho,
                   [&](OperationContext&,
                       test::v1::EchoRequest request) -> absl::StatusOr<test::v1::EchoReply> {
                     test::v1::EchoReply reply;
                     reply.set_text(request.text());
                     if (request.text() == "inner") return reply;
                     known.WaitForNotification();
                     request.set_text("inner");
                     const auto inner =
                         context->DispatchBlocking<test::v1::EchoReply>(kEcho, request);
                     EXPECT_EQ(inner->text(), "inner");
                     EXPECT_FALSE(outer->done());
                     return reply;
                   }))
                  .ok());
  auto runtime = Spawn({.operations = std::move(registry)});
  context = runtime->context().AsRuntimeContext();
  test::v1::EchoRequest request;
  request.set_text("outer");
  outer = context->DispatchAsync<test::v1::EchoReply>(kEcho, request);
  known.Notify();
  const absl::StatusOr<test::v1::EchoReply> reply = outer->AwaitReply<test::v1::EchoReply>();
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->text(), "outer");
}

TEST(RunOnRuntimeThreadBlocking, StartedAtItsDeadlineRunsOnAndItsResultDiesOnTheRuntimeThread) {
  struct Result {
    explicit Result(std::promise<std::thread::id>& where) : died_on(&where) {}
    Result(Result&& other) noexcept : died_on(std::exchange(other.died_on, nullptr)) {}
    ~Result() {
      if (died_on != nullptr) died_on->set_value(std::this_thread::get_id());
    }
    std::promise<std::thread::id>* died_on;
  };
  FakeClock clock;
  auto runtime = Spawn({.clock = &clock});
  const LocalRuntimeContext context = runtime->context();
  const std::thread::id runtime_thread =
      *context.RunOnRuntimeThreadBlocking([] { return std::this_thread::get_id(); });
  std::promise<std::thread::id> died_on;
  absl::Notification started, go, returned;
  std::thread caller([&] {
    absl::StatusOr<Result> result = context.RunOnRuntimeThreadBlocking(
        [&] {
          started.Notify();
          go.WaitForNotification();
          return Result(died_on);
        },
        absl::Milliseconds(200));
    EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(ReasonOf(result.status()), v1::ERROR_REASON_STILL_RUNNING);
    returned.Notify();
  });
  started.WaitForNotification();
  // Again and again: the caller may be on its way to its wait.
  while (!returned.HasBeenNotified()) {
    clock.Advance(absl::Milliseconds(200));
    std::this_thread::yield();
  }
  caller.join();
  go.Notify();
  EXPECT_EQ(died_on.get_future().get(), runtime_thread);
}

TEST(RunOnRuntimeThreadBlocking, ACallerThatHasGivenUpLeavesNothingDangling) {
  auto runtime = Spawn();
  const LocalRuntimeContext context = runtime->context();
  for (int i = 0; i < 2000; ++i) {
    // Timed so that the deadline falls before, in and after the run: AddressSanitizer watches the
    // rest.
    auto value = std::make_shared<std::vector<int>>(100, i);
    const absl::StatusOr<std::vector<int>> result =
        context.RunOnRuntimeThreadBlocking([value] { return *value; }, absl::Microseconds(i % 100));
    if (result.ok()) {
      EXPECT_EQ(result->at(99), i);
    }
  }
}

TEST(RunOnRuntimeThreadBlocking, WaitsForALoopThatStartsLater) {
  auto runtime = *Runtime::Create({});
  const LocalRuntimeContext context = runtime->context();
  std::thread caller([&] {
    EXPECT_EQ(*context.RunOnRuntimeThreadBlocking([] { return 9; }), 9);
    runtime->Stop();
  });
  ASSERT_TRUE(runtime->Run().ok());
  caller.join();
}

TEST(RunOnRuntimeThreadAsync, NeverRunsInPlaceNotEvenOnTheRuntimeThread) {
  auto runtime = *Runtime::Create({});
  bool ran = false;
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([&] { ran = true; }).ok());
  EXPECT_FALSE(ran);
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([&] { runtime->Stop(); }).ok());
  ASSERT_TRUE(runtime->Run().ok());
  EXPECT_TRUE(ran);
}

TEST(RunOnRuntimeThreadAsync, AnExceptionIsLoggedAndTheThreadGoesOn) {
  absl::Mutex mutex;
  std::string logged;
  auto runtime = Spawn({.log = [&](LogSeverity, std::string_view line) {
    absl::MutexLock lock(&mutex);
    logged += line;
  }});
  ASSERT_TRUE(
      runtime->context().RunOnRuntimeThreadAsync([] { throw std::runtime_error("oh no"); }).ok());
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadBlocking([] {}).ok());
  EXPECT_EQ(runtime->GetSnapshot().ledger.failed, 1u);
  absl::MutexLock lock(&mutex);
  EXPECT_THAT(logged, HasSubstr("oh no"));
}

TEST(RunOnRuntimeThreadAsync, IsRefusedWhenTheQueueIsFullAndTheClosureIsDestroyedAtOnce) {
  auto runtime = *Runtime::Create({.bounds = {.total = {.items = 2, .bytes = 1000}}});
  const LocalRuntimeContext context = runtime->context();
  ASSERT_TRUE(context.RunOnRuntimeThreadAsync([] {}).ok());
  ASSERT_TRUE(context.RunOnRuntimeThreadAsync([] {}).ok());
  auto captured = std::make_shared<int>(1);
  const absl::Status refused = context.RunOnRuntimeThreadAsync([captured] {});
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_EQ(captured.use_count(), 1);
  EXPECT_EQ(runtime->GetSnapshot().ledger.refused, 1u);
}

TEST(ALoopThatHasNotStarted, IsSaidSoAfterASecondInTheLogAndInTheStatus) {
  FakeClock clock;
  absl::Notification said;
  std::string line;
  auto runtime =
      *Runtime::Create({.clock = &clock, .log = [&](LogSeverity severity, std::string_view text) {
                          EXPECT_EQ(severity, LogSeverity::kWarning);
                          line = std::string(text);
                          said.Notify();
                        }});
  EXPECT_EQ(runtime->GetSnapshot().notice, "");
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([] {}).ok());
  EXPECT_EQ(runtime->GetSnapshot().state, Runtime::Snapshot::State::kNotStarted);
  clock.AwaitWaiter(absl::Seconds(1));
  EXPECT_EQ(runtime->GetSnapshot().notice, "");
  clock.Advance(absl::Seconds(1));
  said.WaitForNotification();
  EXPECT_THAT(line, HasSubstr("has not started"));
  EXPECT_THAT(runtime->GetSnapshot().notice, HasSubstr("call WaitForSignal"));
  // And what waited runs once it starts.
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([&] { runtime->Stop(); }).ok());
  ASSERT_TRUE(runtime->Run().ok());
  EXPECT_EQ(runtime->GetSnapshot().ledger.succeeded, 2u);
  EXPECT_EQ(runtime->GetSnapshot().notice, "");
}

TEST(AThreadThatIsStuck, IsReportedWithWhatHoldsItAndForHowLong) {
  FakeClock clock;
  absl::Notification said;
  auto runtime = Spawn({.slow_execution = absl::InfiniteDuration(),
                        .clock = &clock,
                        .log = [&](LogSeverity, std::string_view line) {
                          EXPECT_THAT(std::string(line), HasSubstr("stalled"));
                          EXPECT_THAT(std::string(line), HasSubstr("local_context_test.cc:"));
                          said.Notify();
                        }});
  absl::Notification held, go;
  ASSERT_TRUE(runtime->context()
                  .RunOnRuntimeThreadAsync([&] {
                    held.Notify();
                    go.WaitForNotification();
                  })
                  .ok());
  held.WaitForNotification();
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([] {}).ok());
  clock.AwaitWaiter(absl::Milliseconds(5));
  clock.Advance(absl::Seconds(2));
  said.WaitForNotification();
  const Runtime::Snapshot snapshot = runtime->GetSnapshot();
  EXPECT_EQ(snapshot.state, Runtime::Snapshot::State::kStalled);
  EXPECT_EQ(snapshot.current_operation, "(closure)");
  EXPECT_THAT(snapshot.current_call_site, HasSubstr("runtime/local_context_test.cc:"));
  EXPECT_EQ(snapshot.current_age, absl::Seconds(2));
  EXPECT_EQ(snapshot.ledger.queued, 1u);
  EXPECT_EQ(snapshot.ledger.running, 1u);
  go.Notify();
  runtime.reset();
}

TEST(WaitForSignal, ReturnsTheSignalThatCame) {
  auto runtime = *Runtime::Create({});
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([] { raise(SIGTERM); }).ok());
  const absl::StatusOr<int> signal = runtime->WaitForSignal();
  ASSERT_TRUE(signal.ok()) << signal.status();
  EXPECT_EQ(*signal, SIGTERM);
}

TEST(WaitForSignal, ReturnsZeroAfterStopAndIsRefusedElsewhere) {
  auto runtime = *Runtime::Create({});
  ASSERT_TRUE(runtime->context().RunOnRuntimeThreadAsync([&] { runtime->Stop(); }).ok());
  EXPECT_EQ(*runtime->WaitForSignal(), 0);
  std::thread other(
      [&] { EXPECT_EQ(runtime->Run().code(), absl::StatusCode::kFailedPrecondition); });
  other.join();
  auto external = *Runtime::Create({.loop = std::make_unique<ExternalLoop>()});
  EXPECT_EQ(external->WaitForSignal().status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(
      Runtime::Create({.loop = std::make_unique<ExternalLoop>(), .thread = RuntimeThread::kSpawn})
          .status()
          .code(),
      absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace runloop

// Rings beside each run loop, and a runtime thread that does not come to them.

#include <glib.h>

#include <atomic>

#include "absl/synchronization/notification.h"
#include "runloop/runtime/external_loop.h"
#include "runloop/runtime/glib/glib_loop.h"
#include "runloop/tests/rings/fixture.h"

namespace runloop {
namespace {

class RingLoopsTest : public RingsFixture {
 protected:
  // A worker by hand that wakes the sleeping runtime thread by the bell alone.
  void ExpectTheBellWakes() {
    RawSession session(path());
    RawRing ring(path());
    ring.Attach(session);
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(Await([&] { return ring.daemon_sleeps(); }));
      ASSERT_EQ(ring.Outcome(ring.Echo(10)), absl::OkStatus());
    }
    session.HalfClose();
    EXPECT_EQ(session.End(), absl::OkStatus());
  }
  // Ours.
  void ExpectAWorkerIsServed() {
    constexpr uint64_t kMany = 10'000;
    const RuntimeContext context = ConnectByRing();
    for (int i = 0; i < 100; ++i) ASSERT_EQ(Echo(context), absl::OkStatus());
    for (uint64_t i = 0; i < kMany; ++i) context.DispatchAsync(kRecord, Record(1, i));
    ASSERT_EQ(Echo(context), absl::OkStatus());
    const std::vector<TestOperations::Item> record = operations_->record();
    ASSERT_EQ(record.size(), kMany);
    for (uint64_t i = 0; i < kMany; ++i) ASSERT_EQ(record[i].second, i);
  }
  // Runs `worker` on a thread of its own, and this one's loop meanwhile.
  void Drive(ExternalLoop& loop, const std::function<void()>& worker) {
    std::atomic<bool> done{false};
    std::thread thread([&] {
      worker();
      done = true;
      loop.Wake();
    });
    while (!done) {
      pollfd ready{.fd = loop.fd(), .events = POLLIN, .revents = 0};
      EXPECT_EQ(poll(&ready, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))), 1);
      loop.Drain();
    }
    thread.join();
  }
  ExternalLoop& StartExternal(WorkBounds bounds = {}) {
    auto owned = std::make_unique<ExternalLoop>();
    ExternalLoop& loop = *owned;
    Start({}, {.loop = std::move(owned), .bounds = bounds});
    return loop;
  }
};

TEST_F(RingLoopsTest, ByEpoll) {
  Start();
  ExpectTheBellWakes();
  ExpectAWorkerIsServed();
}

TEST_F(RingLoopsTest, ByGlib) {
  GMainContext* const context = g_main_context_new();
  Start({}, {.loop = NewGlibLoop({.context = context}), .thread = RuntimeThread::kSpawn});
  ExpectTheBellWakes();
  ExpectAWorkerIsServed();
  host_.reset();
  runtime_.reset();
  g_main_context_unref(context);
}

TEST_F(RingLoopsTest, ByALoopThatSomebodyElseRuns) {
  ExternalLoop& loop = StartExternal();
  Drive(loop, [this] {
    ExpectTheBellWakes();
    ExpectAWorkerIsServed();
  });
}

TEST_F(RingLoopsTest, WhileAnOperationHoldsTheThreadACancelADeadlineAndAFullQueueAreAnswered) {
  constexpr int kMost = 8;
  Start({}, {.thread = RuntimeThread::kSpawn,
             .bounds = {.session = {.items = kMost, .bytes = int64_t{1} << 20}}});
  RawSession session(path());
  RawRing ring(path());
  ring.Attach(session);
  const RuntimeContext local = runtime_->context().AsRuntimeContext("local");
  const Invocation held = local.DispatchAsync(kHold, test::v1::HoldRequest());
  operations_->AwaitHeld();
  // Which neither rings nor knocks more than any other.
  const uint64_t cancelled = ring.Dispatch(kRecord, Record(1, 1));
  v1::SessionRequest cancel;
  cancel.add_cancels()->set_invocation_id(cancelled);
  ring.Say(cancel);
  EXPECT_TRUE(absl::IsCancelled(ring.Outcome(cancelled)));
  v1::SessionRequest late;
  ring.Add(late, kRecord, Record(1, 2)).mutable_timeout()->set_nanos(1'000'000);
  const uint64_t expired = ring.last_id();
  ring.Say(late);
  EXPECT_EQ(ReasonOf(ring.Outcome(expired)), v1::ERROR_REASON_EXPIRED);
  v1::SessionRequest many;
  for (int i = 0; i <= kMost; ++i) ring.Add(many, kRecord, Record(2, static_cast<uint64_t>(i)));
  const uint64_t refused = ring.last_id();
  ring.Say(many);
  EXPECT_EQ(ReasonOf(ring.Outcome(refused)), v1::ERROR_REASON_QUEUE_FULL);
  EXPECT_FALSE(held.done());
  EXPECT_TRUE(operations_->record().empty());
  operations_->LetGo();
  EXPECT_EQ(ring.Outcome(refused - 1), absl::OkStatus());
  EXPECT_EQ(operations_->record().size(), static_cast<size_t>(kMost));
  EXPECT_EQ(held.Await(kPatience), absl::OkStatus());
}

TEST_F(RingLoopsTest, WhileNobodyRunsTheLoopADeadlineIsAnswered) {
  ExternalLoop& loop = StartExternal();
  std::optional<RuntimeContext> context;
  Drive(loop, [&] {
    context.emplace(ConnectByRing());
    EXPECT_EQ(Echo(*context), absl::OkStatus());
  });
  // From here on nobody does. Another thread dispatches: who waits on the runtime thread is told of
  // the deadlock.
  std::thread worker([&] {
    const Invocation late = context->DispatchAsync<test::v1::RecordReply>(
        kRecord, Record(1, 1), {.timeout = absl::Milliseconds(50)});
    const absl::Status ended = late.Await(kPatience);
    EXPECT_EQ(ReasonOf(ended), v1::ERROR_REASON_EXPIRED) << ended;
  });
  worker.join();
  EXPECT_TRUE(operations_->record().empty());
  // The loop runs again.
  Drive(loop, [&] { EXPECT_EQ(Echo(*context), absl::OkStatus()); });
  EXPECT_TRUE(operations_->record().empty());
  Drive(loop, [&] { context.reset(); });
}

TEST_F(RingLoopsTest, WhatComesBeforeTheLoopFirstRunsIsQueued) {
  ExternalLoop& loop = StartExternal();
  std::optional<RuntimeContext> context(ConnectByRing());
  const Invocation first = context->DispatchAsync(kRecord, Record(1, 1));
  EXPECT_TRUE(Await([&] { return runtime_->GetSnapshot().ledger.queued == 1; }));
  EXPECT_EQ(runtime_->GetSnapshot().state, Runtime::Snapshot::State::kNotStarted);
  EXPECT_TRUE(operations_->record().empty());
  Drive(loop, [&] { EXPECT_EQ(first.Await(kPatience), absl::OkStatus()); });
  EXPECT_EQ(operations_->record().size(), 1u);
  Drive(loop, [&] { context.reset(); });
}

}  // namespace
}  // namespace runloop

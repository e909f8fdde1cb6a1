// Dispatches as operations of asio's, in process and over the ring.

#include "runloop/runtime/asio.h"

#include <gtest/gtest.h>

#include <asio.hpp>
#include <future>
#include <memory>
#include <optional>
#include <thread>

#include "absl/synchronization/notification.h"
#include "runloop/tests/contract/fixture.h"

namespace runloop {
namespace {

using test::v1::EchoReply;
using test::v1::FailRequest;
using test::v1::HoldReply;
using test::v1::HoldRequest;
using test::v1::RecordReply;

class AsioTest : public ContractTest {
 protected:
  // Runs until the io_context has no work left: what is pending must keep it from ending.
  void RunAll() {
    io_.restart();
    io_.run();
  }

  asio::io_context io_;
};

INSTANTIATE_TEST_SUITE_P(, AsioTest, testing::ValuesIn(kPaths), PathName);

TEST_P(AsioTest, AFutureGetsTheReply) {
  Start();
  std::future<absl::StatusOr<EchoReply>> reply =
      AsyncDispatch<EchoReply>(Context(), kEcho, Echo("hello"), asio::use_future);
  const absl::StatusOr<EchoReply> got = reply.get();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->text(), "hello");
}

TEST_P(AsioTest, AHandlerIsPostedToItsExecutorWhichHasWorkUntilThen) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  bool called = false;
  // Handlers may be movable only.
  auto handler = [&, owned = std::make_unique<int>(1)](const absl::StatusOr<EchoReply>& reply) {
    EXPECT_TRUE(reply.ok()) << reply.status();
    EXPECT_TRUE(io_.get_executor().running_in_this_thread());
    called = *owned == 1;
  };
  AsyncDispatch<EchoReply>(context, kEcho, Echo(""),
                           asio::bind_executor(io_.get_executor(), std::move(handler)));
  asio::post(io_, [&] { operations_->LetGo(); });
  EXPECT_FALSE(called);
  RunAll();
  EXPECT_TRUE(called);
}

TEST_P(AsioTest, ARefusalIsPostedToo) {
  Start();
  bool called = false;
  AsyncDispatch<EchoReply>(Context(), "acme.v1.Camera/Open", Echo(""),
                           asio::bind_executor(io_, [&](const absl::StatusOr<EchoReply>& reply) {
                             EXPECT_TRUE(absl::IsUnimplemented(reply.status())) << reply.status();
                             called = true;
                           }));
  EXPECT_FALSE(called);
  RunAll();
  EXPECT_TRUE(called);
}

TEST_P(AsioTest, ACancellationSlotCancelsWhatHasNotStarted) {
  Start();
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  asio::cancellation_signal signal;
  std::optional<absl::Status> status;
  AsyncDispatch(context, kRecord, Record(0, 0),
                asio::bind_cancellation_slot(
                    signal.slot(), asio::bind_executor(io_, [&](const absl::Status& outcome) {
                      status = outcome;
                    })));
  while (runtime_->GetSnapshot().ledger.queued == 0) std::this_thread::yield();
  asio::post(io_, [&] { signal.emit(asio::cancellation_type::total); });
  RunAll();
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(ReasonOf(*status), v1::ERROR_REASON_CANCELLED) << *status;
  operations_->LetGo();
  ASSERT_TRUE(hold.Await().ok());
  EXPECT_TRUE(operations_->record().empty());
}

TEST_P(AsioTest, OnlyTerminalAndPartialCancellationLeaveWhatRuns) {
  Start();
  const RuntimeContext context = Context();
  for (const asio::cancellation_type type :
       {asio::cancellation_type::terminal, asio::cancellation_type::partial,
        asio::cancellation_type::total}) {
    asio::cancellation_signal signal;
    std::optional<absl::Status> status;
    AsyncDispatch(context, kHold, HoldRequest(),
                  asio::bind_cancellation_slot(
                      signal.slot(), asio::bind_executor(io_, [&](const absl::Status& outcome) {
                        status = outcome;
                      })));
    operations_->AwaitHeld();
    const bool leaves = type != asio::cancellation_type::total;
    asio::post(io_, [&] {
      signal.emit(type);
      if (!leaves) operations_->LetGo();
    });
    RunAll();
    ASSERT_TRUE(status.has_value());
    EXPECT_EQ(status->ok(), !leaves) << *status;
    if (!leaves) continue;
    EXPECT_TRUE(absl::IsCancelled(*status)) << *status;
    EXPECT_EQ(ReasonOf(*status), v1::ERROR_REASON_STILL_RUNNING) << *status;
    operations_->LetGo();
    // So that the next Hold is the only one.
    ASSERT_TRUE(context.DispatchBlocking<EchoReply>(kEcho, Echo("")).ok());
  }
}

TEST_P(AsioTest, WatchersRunOnStrandsAndThreadPools) {
  Start();
  asio::thread_pool pool(2);
  constexpr int kCalls = 100;
  int calls = 0;  // the strand's
  absl::Notification all;
  {
    const RuntimeContext context = Context();
    const auto strand = asio::make_strand(pool.get_executor());
    for (int i = 0; i < kCalls; ++i) {
      context.DispatchAsync(kEcho, Echo(""))
          .Watch(ExecutorOf(strand), [&, strand](const absl::Status& status) {
            EXPECT_TRUE(status.ok()) << status;
            EXPECT_TRUE(strand.running_in_this_thread());
            if (++calls == kCalls) all.Notify();
          });
    }
    all.WaitForNotification();
  }
  pool.join();
  // Before the pool, since the thread that has posted last lets go of its strand just now.
  host_.reset();
  runtime_.reset();
}

#ifdef ASIO_HAS_CO_AWAIT

TEST_P(AsioTest, ACoroutineOfAsiosAwaitsDispatchesOnItsExecutor) {
  Start();
  const RuntimeContext context = Context();
  auto coroutine = [&]() -> asio::awaitable<std::string> {
    std::string texts;
    for (const char* const text : {"one", "two"}) {
      const absl::StatusOr<EchoReply> reply =
          co_await AsyncDispatch<EchoReply>(context, kEcho, Echo(text), asio::use_awaitable);
      EXPECT_TRUE(io_.get_executor().running_in_this_thread());
      texts += reply.ok() ? reply->text() : reply.status().ToString();
    }
    FailRequest fail;
    fail.set_code(static_cast<int>(absl::StatusCode::kNotFound));
    const absl::Status status = co_await AsyncDispatch(context, kFail, fail, asio::use_awaitable);
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    co_return texts;
  };
  std::future<std::string> texts = asio::co_spawn(io_, coroutine(), asio::use_future);
  RunAll();
  EXPECT_EQ(texts.get(), "onetwo");
}

TEST_P(AsioTest, CancellingACoroutineOfAsiosEndsItsDispatch) {
  Start();
  const RuntimeContext context = Context();
  asio::cancellation_signal signal;
  absl::Status status;
  auto coroutine = [&]() -> asio::awaitable<void> {
    status = (co_await AsyncDispatch<HoldReply>(context, kHold, HoldRequest(), asio::use_awaitable))
                 .status();
  };
  asio::co_spawn(io_, coroutine(), asio::bind_cancellation_slot(signal.slot(), asio::detached));
  std::thread canceller([&] {
    operations_->AwaitHeld();
    asio::post(io_, [&] { signal.emit(asio::cancellation_type::all); });
  });
  RunAll();
  canceller.join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_STILL_RUNNING) << status;
  operations_->LetGo();
}

#endif  // ASIO_HAS_CO_AWAIT

}  // namespace
}  // namespace runloop

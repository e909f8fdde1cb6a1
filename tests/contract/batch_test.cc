// Batches, in process, by the stream and by the ring.

#include <gmock/gmock.h>

#include <vector>

#include "runloop/runtime/wait.h"
#include "runloop/tests/contract/fixture.h"

namespace runloop {
namespace {

using testing::ElementsAre;
using testing::SizeIs;
using Item = TestOperations::Item;

test::v1::FailRequest Fail() {
  test::v1::FailRequest request;
  request.set_code(static_cast<int>(absl::StatusCode::kDataLoss));
  return request;
}

class BatchTest : public ContractTest {
 protected:
  static std::vector<v1::ErrorReason> ReasonsOf(const std::vector<Invocation>& invocations) {
    std::vector<v1::ErrorReason> reasons;
    for (const Invocation& invocation : invocations) {
      reasons.push_back(ReasonOf(invocation.Await(absl::InfiniteDuration())));
    }
    return reasons;
  }
};

TEST_P(BatchTest, RunsInARowAndEachHasItsOutcome) {
  Start();
  const RuntimeContext context = Context(), other = Context();
  const Invocation hold = Hold(context);
  // Behind each other in the queue, from two sessions, and longer than a session's part of it.
  Batch first, second;
  for (uint64_t i = 0; i < 100; ++i) {
    first.Add(kRecord, Record(1, i));
    second.Add(kRecord, Record(2, i));
  }
  first.Add<test::v1::EchoReply>(kEcho, Echo("last"));
  const std::vector<Invocation> firsts = context.DispatchBatch(std::move(first));
  const std::vector<Invocation> seconds = other.DispatchBatch(std::move(second));
  const Invocation after = context.DispatchAsync(kRecord, Record(1, 100));
  operations_->LetGo();
  EXPECT_TRUE(WaitAll(firsts, absl::InfiniteDuration()).ok());
  EXPECT_TRUE(WaitAll(seconds, absl::InfiniteDuration()).ok());
  EXPECT_TRUE(after.Await(absl::InfiniteDuration()).ok());
  EXPECT_TRUE(hold.Await(absl::InfiniteDuration()).ok());
  ASSERT_THAT(firsts, SizeIs(101));
  EXPECT_EQ(firsts.back().AwaitReply<test::v1::EchoReply>(absl::ZeroDuration())->text(), "last");
  const std::vector<Item> record = operations_->record();
  ASSERT_THAT(record, SizeIs(201));
  // Which of the sessions came first is the transports' to say.
  const auto begin = [&](uint32_t producer) {
    return std::find(record.begin(), record.end(), Item(producer, 0)) - record.begin();
  };
  for (uint32_t producer = 1; producer <= 2; ++producer) {
    for (uint64_t i = 0; i < 100; ++i) {
      ASSERT_EQ(record[static_cast<size_t>(begin(producer)) + i], Item(producer, i));
    }
  }
}

TEST_P(BatchTest, StopsAtTheFirstFailureIfItIsTo) {
  Start();
  const RuntimeContext context = Context();
  for (const bool stops : {true, false}) {
    Batch batch;
    batch.Add(kRecord, Record(1, 0)).Add(kFail, Fail()).Add(kRecord, Record(1, 1));
    batch.Add(kRecord, Record(1, 2));
    const size_t before = operations_->record().size();
    const std::vector<Invocation> invocations =
        context.DispatchBatch(std::move(batch), {.stop_at_failure = stops});
    EXPECT_EQ(invocations[1].Await(absl::InfiniteDuration()).code(), absl::StatusCode::kDataLoss);
    const v1::ErrorReason rest =
        stops ? v1::ERROR_REASON_BATCH_STOPPED : v1::ERROR_REASON_UNSPECIFIED;
    EXPECT_THAT(ReasonsOf(invocations), ElementsAre(v1::ERROR_REASON_UNSPECIFIED,
                                                    v1::ERROR_REASON_UNSPECIFIED, rest, rest));
    EXPECT_THAT(operations_->record(), SizeIs(before + (stops ? 1 : 3)));
  }
  const Ledger::Counts ledger = runtime_->GetSnapshot().ledger;
  EXPECT_EQ(ledger.cancelled, 2u);
  EXPECT_EQ(ledger.failed, 2u);
}

TEST_P(BatchTest, OneOfItCanBeCancelledAndTheRestFollowsItIfItIsToStop) {
  Start();
  const RuntimeContext context = Context();
  for (const bool stops : {true, false}) {
    const Invocation hold = Hold(context);
    Batch batch;
    for (uint64_t i = 0; i < 3; ++i) batch.Add(kRecord, Record(1, i));
    const std::vector<Invocation> invocations =
        context.DispatchBatch(std::move(batch), {.stop_at_failure = stops});
    invocations[1].Cancel();
    EXPECT_EQ(ReasonOf(invocations[1].Await(absl::InfiniteDuration())), v1::ERROR_REASON_CANCELLED);
    operations_->LetGo();
    EXPECT_THAT(ReasonsOf(invocations),
                ElementsAre(v1::ERROR_REASON_UNSPECIFIED, v1::ERROR_REASON_CANCELLED,
                            stops ? v1::ERROR_REASON_BATCH_STOPPED : v1::ERROR_REASON_UNSPECIFIED));
  }
  EXPECT_THAT(operations_->record(), ElementsAre(Item(1, 0), Item(1, 0), Item(1, 2)));
}

TEST_P(BatchTest, IsTakenInAsAWholeOrNotAtAll) {
  Start(RuntimeThread::kSpawn, {.session = {.items = 10, .bytes = int64_t{1} << 20}});
  const RuntimeContext context = Context();
  // One that nobody knows refuses all.
  Batch unknown;
  unknown.Add(kRecord, Record(1, 0)).Add("runloop.test.v1.TestOperations/Unknown", Record(1, 1));
  EXPECT_THAT(ReasonsOf(context.DispatchBatch(std::move(unknown))),
              ElementsAre(v1::ERROR_REASON_UNKNOWN_OPERATION, v1::ERROR_REASON_UNKNOWN_OPERATION));
  // More than there may be.
  Batch many;
  for (uint64_t i = 0; i <= kMostInBatch; ++i) many.Add(kRecord, Record(1, i));
  const std::vector<Invocation> too_many = context.DispatchBatch(std::move(many));
  ASSERT_THAT(too_many, SizeIs(kMostInBatch + 1));
  EXPECT_EQ(ReasonOf(too_many.back().Await(absl::InfiniteDuration())),
            v1::ERROR_REASON_INVALID_REQUEST);
  EXPECT_TRUE(context.DispatchBatch(Batch()).empty());
  EXPECT_THAT(operations_->record(), SizeIs(0));
  if (GetParam() == Path::kLocal) return;  // bounded by the total alone
  // More than fits beside what there is, and more than ever fits.
  const Invocation hold = Hold(context);
  for (const size_t size : {10, 11}) {
    Batch batch;
    for (uint64_t i = 0; i < size; ++i) batch.Add(kRecord, Record(1, i));
    const std::vector<Invocation> refused = context.DispatchBatch(std::move(batch));
    for (const Invocation& invocation : refused) {
      EXPECT_EQ(ReasonOf(invocation.Await(absl::InfiniteDuration())),
                size == 10 ? v1::ERROR_REASON_QUEUE_FULL : v1::ERROR_REASON_MESSAGE_TOO_LARGE);
    }
  }
  operations_->LetGo();
  EXPECT_TRUE(hold.Await(absl::InfiniteDuration()).ok());
  EXPECT_THAT(operations_->record(), SizeIs(0));
}

// By what carries it: a short message, one that the runtime thread reads, one that another thread
// reads since it holds many, and one that is longer than a ring.
TEST_P(BatchTest, OfAnySizeIsTheSame) {
  Start();
  const RuntimeContext context = Context();
  for (const auto& [count, bytes] : {std::pair(3, 10), {100, 100}, {500, 100}, {100, 10'000}}) {
    Batch batch;
    for (int i = 0; i < count; ++i) {
      test::v1::EchoRequest request = Echo(std::to_string(i));
      request.set_payload(std::string(static_cast<size_t>(bytes), 'x'));
      batch.Add<test::v1::EchoReply>(kEcho, std::move(request));
    }
    const std::vector<Invocation> invocations = context.DispatchBatch(std::move(batch));
    ASSERT_THAT(invocations, SizeIs(count));
    for (int i = 0; i < count; ++i) {
      const auto reply = invocations[static_cast<size_t>(i)].AwaitReply<test::v1::EchoReply>(
          absl::InfiniteDuration());
      ASSERT_TRUE(reply.ok()) << reply.status();
      EXPECT_EQ(reply->text(), std::to_string(i));
      EXPECT_EQ(reply->payload_size(), static_cast<uint64_t>(bytes));
    }
  }
}

TEST_P(BatchTest, EndsWithItsRuntimeInTheMiddle) {
  Start();
  const RuntimeContext context = Context();
  Batch batch;
  batch.Add(kRecord, Record(1, 0)).Add(kHold, test::v1::HoldRequest());
  for (uint64_t i = 1; i < 50; ++i) batch.Add(kRecord, Record(1, i));
  const std::vector<Invocation> invocations = context.DispatchBatch(std::move(batch));
  operations_->AwaitHeld();
  runtime_->BeginDrain();
  Batch late;
  late.Add(kRecord, Record(2, 0)).Add(kRecord, Record(2, 1));
  EXPECT_THAT(ReasonsOf(context.DispatchBatch(std::move(late))),
              ElementsAre(v1::ERROR_REASON_DRAINING, v1::ERROR_REASON_DRAINING));
  // What was taken in before still runs, all of it.
  operations_->LetGo();
  EXPECT_TRUE(WaitAll(invocations, absl::InfiniteDuration()).ok());
  EXPECT_THAT(operations_->record(), SizeIs(50));
  const Ledger::Counts ledger = runtime_->GetSnapshot().ledger;
  EXPECT_EQ(ledger.admitted, 51u);
  EXPECT_EQ(ledger.refused, 2u);
}

TEST_P(BatchTest, WaitsForRoomAsAWhole) {
  Start(RuntimeThread::kSpawn, {.total = {.items = 4, .bytes = int64_t{1} << 20},
                                .user = {.items = 4, .bytes = int64_t{1} << 20},
                                .session = {.items = 4, .bytes = int64_t{1} << 20}});
  const RuntimeContext context = Context();
  const Invocation hold = Hold(context);
  const Invocation before = context.DispatchAsync(kRecord, Record(1, 0));
  Batch refused;
  for (uint64_t i = 1; i <= 4; ++i) refused.Add(kRecord, Record(2, i));
  EXPECT_THAT(ReasonsOf(context.DispatchBatch(std::move(refused))),
              testing::Each(v1::ERROR_REASON_QUEUE_FULL));
  // Let go by what it does not wait for: the caller blocks meanwhile.
  std::thread lets_go([&] { operations_->LetGo(); });
  Batch batch;
  for (uint64_t i = 1; i <= 4; ++i) batch.Add(kRecord, Record(1, i));
  const std::vector<Invocation> invocations = context.DispatchBatch(
      std::move(batch), {.timeout = absl::Minutes(1), .when_full = WhenFull::kWait});
  lets_go.join();
  EXPECT_TRUE(WaitAll(invocations, absl::InfiniteDuration()).ok());
  EXPECT_TRUE(before.Await(absl::InfiniteDuration()).ok());
  EXPECT_THAT(operations_->record(), SizeIs(5));
}

TEST_P(BatchTest, ExpiresAndEndsWithItsSession) {
  Start();
  const RuntimeContext other = Context();
  const Invocation hold = Hold(other);
  {
    const RuntimeContext context = Context();
    Batch batch;
    batch.Add(kRecord, Record(1, 0)).Add(kRecord, Record(1, 1));
    EXPECT_THAT(
        ReasonsOf(context.DispatchBatch(std::move(batch), {.timeout = absl::Milliseconds(1)})),
        ElementsAre(v1::ERROR_REASON_EXPIRED, v1::ERROR_REASON_EXPIRED));
  }
  std::stop_source stop;
  Batch stopped;
  stopped.Add(kRecord, Record(1, 2)).Add(kRecord, Record(1, 3));
  const std::vector<Invocation> invocations =
      other.DispatchBatch(std::move(stopped), {.stop_token = stop.get_token()});
  stop.request_stop();
  EXPECT_THAT(ReasonsOf(invocations),
              ElementsAre(v1::ERROR_REASON_CANCELLED, v1::ERROR_REASON_CANCELLED));
  operations_->LetGo();
  EXPECT_TRUE(hold.Await(absl::InfiniteDuration()).ok());
  EXPECT_THAT(operations_->record(), SizeIs(0));
}

INSTANTIATE_TEST_SUITE_P(Paths, BatchTest, testing::ValuesIn(kPaths), PathName);

}  // namespace
}  // namespace runloop

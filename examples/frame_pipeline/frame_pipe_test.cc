#include "runloop/examples/frame_pipeline/frame_pipe.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "runloop/runtime/runtime.h"

namespace runloop::examples {
namespace {

using pipeline::v1::ConsumeReply;
using pipeline::v1::ConsumeRequest;
using pipeline::v1::ProduceReply;
using pipeline::v1::ProduceRequest;
using pipeline::v1::PullReply;
using pipeline::v1::PullRequest;
using pipeline::v1::PushReply;
using pipeline::v1::PushRequest;

constexpr char kProduce[] = "runloop.examples.pipeline.v1.FramePipe/Produce";
constexpr char kConsume[] = "runloop.examples.pipeline.v1.FramePipe/Consume";
constexpr char kPush[] = "runloop.examples.pipeline.v1.FramePipe/Push";
constexpr char kPull[] = "runloop.examples.pipeline.v1.FramePipe/Pull";

class FramePipeTest : public testing::Test {
 protected:
  FramePipeTest() {
    OperationRegistry operations;
    EXPECT_TRUE(FramePipes::Register(operations).ok());
    runtime_ = *Runtime::Create({.operations = std::move(operations),
                                 .thread = RuntimeThread::kSpawn,
                                 .log = [](LogSeverity, std::string_view) {}});
    producer_ = runtime_->context().AsRuntimeContext();
    consumer_ = runtime_->context().AsRuntimeContext();
  }

  Invocation Produce() {
    ProduceRequest request;
    request.set_pipe("p");
    return producer_->DispatchAsync<ProduceReply>(kProduce, request);
  }
  absl::Status Consume() {
    ConsumeRequest request;
    request.set_pipe("p");
    return consumer_->DispatchBlocking<ConsumeReply>(kConsume, request).status();
  }
  Invocation Push(std::optional<int64_t> pts) {
    PushRequest request;
    request.set_pipe("p");
    if (pts.has_value()) request.mutable_frame()->set_pts_nanos(*pts);
    return producer_->DispatchAsync(kPush, request);
  }
  Invocation Pull() {
    PullRequest request;
    request.set_pipe("p");
    return consumer_->DispatchAsync<PullReply>(kPull, request);
  }

  std::unique_ptr<Runtime> runtime_;
  std::optional<RuntimeContext> producer_, consumer_;
};

TEST_F(FramePipeTest, FramesComeInOrderAndEachIsDoneWithTheNextPull) {
  const Invocation produce = Produce();
  ASSERT_TRUE(Consume().ok());
  EXPECT_EQ(produce.AwaitReply<ProduceReply>()->consumer_session_id(), consumer_->session_id());
  const Invocation waiting = Pull();
  const Invocation first = Push(1), second = Push(2);
  EXPECT_EQ(waiting.AwaitReply<PullReply>()->frame().pts_nanos(), 1);
  EXPECT_FALSE(first.done());
  EXPECT_EQ(Pull().AwaitReply<PullReply>()->frame().pts_nanos(), 2);
  EXPECT_TRUE(first.Await().ok());
  EXPECT_FALSE(second.done());
  EXPECT_TRUE(Push(std::nullopt).Await().ok());
  EXPECT_TRUE(absl::IsOutOfRange(Pull().Await()));
  EXPECT_TRUE(second.Await().ok());
}

TEST_F(FramePipeTest, TheProducerHearsThatTheConsumerHasGone) {
  const Invocation produce = Produce();
  ASSERT_TRUE(Consume().ok());
  ASSERT_TRUE(produce.Await().ok());
  const Invocation taken = Push(1), waiting = Push(2);
  EXPECT_TRUE(Pull().Await().ok());
  consumer_.reset();
  EXPECT_TRUE(absl::IsAborted(taken.Await()));
  EXPECT_TRUE(absl::IsAborted(waiting.Await()));
  EXPECT_TRUE(absl::IsAborted(Push(3).Await()));
}

TEST_F(FramePipeTest, TheConsumerHearsThatTheProducerHasGone) {
  const Invocation produce = Produce();
  ASSERT_TRUE(Consume().ok());
  ASSERT_TRUE(produce.Await().ok());
  const Invocation waiting = Pull();
  producer_.reset();
  EXPECT_TRUE(absl::IsOutOfRange(waiting.Await()));
}

TEST_F(FramePipeTest, OneOfEachAndNoStrangers) {
  const Invocation produce = Produce();
  ASSERT_TRUE(Consume().ok());
  ASSERT_TRUE(produce.Await().ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Produce().Await()));
  EXPECT_TRUE(absl::IsAlreadyExists(Consume()));
  std::swap(producer_, consumer_);
  EXPECT_TRUE(absl::IsFailedPrecondition(Push(1).Await()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Pull().Await()));
}

}  // namespace
}  // namespace runloop::examples

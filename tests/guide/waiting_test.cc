// The guide's chapters on waiting without blocking: callbacks, coroutines, several at once.

#include <optional>
#include <vector>

#include "runloop/runtime/pending.h"
#include "runloop/runtime/wait.h"
#include "runloop/tests/guide/fixture.h"
#include "runloop/tests/testing/task.h"

namespace acme {
namespace {

// Any coroutine type.
using Task = runloop::TestTask;

TEST_F(GuideTest, ACallbackRunsOnAnExecutor) {
  Start();
  const runloop::RuntimeContext context = Connect();
  const DescribeRequest request = Front();
  const ZoomRequest zoom = ZoomOf(context, 150);
  runloop::ManualExecutor queue;
  absl::Status status;
  uint32_t width = 0;
  // [watch]
  runloop::Executor here = queue.executor();  // any function that queues what it is given
  context.DispatchAsync("acme.v1.Camera/Zoom", zoom).Watch(here, [&](const absl::Status& zoomed) {
    status = zoomed;
  });
  context.Dispatch<DescribeReply>("acme.v1.Camera/Describe", request)
      .On(here)
      .Then([&](absl::StatusOr<DescribeReply> reply) { width = reply.ok() ? reply->width() : 0; });
  // [/watch]
  status = absl::UnknownError("not told");
  queue.RunOne();
  queue.RunOne();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(width, 1920u);
}

TEST_F(GuideTest, ManyAreAwaitedTogether) {
  Start();
  const runloop::RuntimeContext context = Connect();
  const ZoomRequest zoom = ZoomOf(context, 150);
  const DescribeRequest request = Front();
  // [wait]
  std::vector<runloop::Invocation> both = {
      context.DispatchAsync("acme.v1.Camera/Zoom", zoom),
      context.DispatchAsync("acme.v1.Camera/Describe", request),
  };
  absl::StatusOr<size_t> first = runloop::WaitAny(both);         // an index
  absl::Status all = runloop::WaitAll(both, absl::Seconds(30));  // the first error, if there is one
  // [/wait]
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_LT(*first, both.size());
  EXPECT_TRUE(all.ok()) << all;
}

TEST_F(GuideTest, ABatchRunsInARow) {
  Start();
  const runloop::RuntimeContext context = Connect();
  const ZoomRequest zoom = ZoomOf(context, 150);
  const DescribeRequest request = Front();
  // [batch]
  runloop::Batch batch;
  batch.Add("acme.v1.Camera/Zoom", zoom);  // its reply is not wanted
  batch.Add<DescribeReply>("acme.v1.Camera/Describe", request);
  std::vector<runloop::Invocation> results =
      context.DispatchBatch(std::move(batch), {.stop_at_failure = true});
  absl::Status all = runloop::WaitAll(results);
  absl::StatusOr<DescribeReply> described = results[1].AwaitReply<DescribeReply>();
  // [/batch]
  EXPECT_TRUE(all.ok()) << all;
  ASSERT_TRUE(described.ok()) << described.status();
  EXPECT_EQ(described->width(), 1920u);
}

TEST_F(GuideTest, AContextHasAPriority) {
  Start();
  const std::string socket = address();
  const runloop::LocalRuntimeContext local = this->local();
  // [priority]
  absl::StatusOr<runloop::RuntimeContext> thumbnails =
      runloop::Connect({.address = socket, .priority = runloop::Priority::kBackground});
  runloop::LocalRuntimeContext urgent = local.WithPriority(runloop::Priority::kInteractive);
  absl::Status redrawn = urgent.RunOnRuntimeThreadAsync([] { /* redraw */ });
  // [/priority]
  ASSERT_TRUE(thumbnails.ok()) << thumbnails.status();
  EXPECT_TRUE(redrawn.ok()) << redrawn;
  EXPECT_EQ(urgent.priority(), runloop::Priority::kInteractive);
}

// [coroutine]
Task ShowWidth(runloop::RuntimeContext context, runloop::Executor here, uint32_t& width) {
  DescribeRequest request;
  request.set_name("front");
  absl::StatusOr<DescribeReply> reply =
      co_await context.Dispatch<DescribeReply>("acme.v1.Camera/Describe", request).On(here);
  if (reply.ok()) width = reply->width();  // where `here` runs it
}
// [/coroutine]

TEST_F(GuideTest, ACoroutineAwaitsAReply) {
  Start();
  runloop::ManualExecutor queue;
  uint32_t width = 0;
  const Task task = ShowWidth(Connect(), queue.executor(), width);
  while (!task.ended()) queue.RunOne();
  EXPECT_EQ(width, 1920u);
}

}  // namespace
}  // namespace acme

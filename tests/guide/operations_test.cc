// The guide's chapters on operations: what their handlers may do, and how they are called.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <stop_token>
#include <thread>
#include <vector>

#include "runloop/runtime/buffer.h"
#include "runloop/runtime/unique_fd.h"
#include "runloop/tests/guide/fixture.h"
#include "runloop/v1/handles.pb.h"

namespace acme {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using v1::AskPermissionReply;
using v1::AskPermissionRequest;
using v1::ConfigureReply;
using v1::ConfigureRequest;
using v1::EncodeReply;
using v1::EncodeRequest;
using v1::OpenReply;
using v1::OpenRequest;

TEST_F(GuideTest, AnOperationIsRegisteredAndCalled) {
  Start();
  const std::string socket = address();
  // [connect]
  absl::StatusOr<runloop::RuntimeContext> context = runloop::Connect({.address = socket});
  // [/connect]
  ASSERT_TRUE(context.ok()) << context.status();
  // [blocking]
  DescribeRequest request;
  request.set_name("front");
  absl::StatusOr<DescribeReply> reply =
      context->DispatchBlocking<DescribeReply>("acme.v1.Camera/Describe", request);
  // [/blocking]
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->width(), 1920u);
}

// [worker]
absl::Status Work() {
  absl::StatusOr<runloop::RuntimeContext> context = runloop::Connect();  // to RUNLOOP_ADDRESS
  if (!context.ok()) return context.status();
  DescribeRequest request;
  request.set_name("front");
  absl::StatusOr<DescribeReply> reply =
      context->DispatchBlocking<DescribeReply>("acme.v1.Camera/Describe", request);
  runloop::Invocation later = context->DispatchAsync("acme.v1.Camera/Describe", request);
  return reply.ok() ? later.Await() : reply.status();
}
// [/worker]

TEST_F(GuideTest, AWorkerNeedsNoMoreThanTheAddress) {
  Start();
  ASSERT_EQ(setenv("RUNLOOP_ADDRESS", address().c_str(), 1), 0);
  const absl::Status status = Work();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(runtime_->GetSnapshot().ledger.succeeded, 2u);
  ASSERT_EQ(unsetenv("RUNLOOP_ADDRESS"), 0);
}

TEST_F(GuideTest, AnOperationsErrorReachesItsCaller) {
  Start();
  const runloop::RuntimeContext context = Connect();
  // [errors]
  DescribeRequest request;
  request.set_name("rear");
  absl::Status status =
      context.DispatchBlocking<DescribeReply>("acme.v1.Camera/Describe", request).status();
  bool no_such_camera = absl::IsNotFound(status);  // the handler's own word
  bool from_runloop = runloop::ReasonOf(status) != runloop::v1::ERROR_REASON_UNSPECIFIED;
  // [/errors]
  EXPECT_TRUE(no_such_camera) << status;
  EXPECT_FALSE(from_runloop) << status;
}

TEST_F(GuideTest, AHandlerFinishesLater) {
  Start();
  const runloop::RuntimeContext context = Connect();
  const runloop::Invocation asked = context.DispatchAsync<AskPermissionReply>(
      "acme.v1.Camera/AskPermission", AskPermissionRequest());
  std::thread user([this] { sdk_->Answer(true); });
  const absl::StatusOr<AskPermissionReply> reply = asked.AwaitReply<AskPermissionReply>();
  user.join();
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_TRUE(reply->granted());
}

TEST_F(GuideTest, AnObjectIsKeptUsedAndReleased) {
  Start();
  const runloop::RuntimeContext context = Connect();
  const absl::StatusOr<OpenReply> opened =
      context.DispatchBlocking<OpenReply>("acme.v1.Camera/Open", OpenRequest());
  ASSERT_TRUE(opened.ok()) << opened.status();
  ZoomRequest zoom;
  zoom.set_camera(opened->camera());
  zoom.set_percent(150);
  ASSERT_TRUE(context.DispatchBlocking<ZoomReply>("acme.v1.Camera/Zoom", zoom).ok());
  EXPECT_THAT(sdk_->zooms(), ElementsAre(150));
  std::thread shutting([this] { sdk_->FinishShutting(); });
  // [release]
  runloop::v1::ReleaseRequest release;
  release.set_handle(opened->camera());
  absl::Status closed =
      context.DispatchBlocking<runloop::v1::ReleaseResponse>("runloop.v1.Handles/Release", release)
          .status();
  // [/release]
  shutting.join();
  EXPECT_TRUE(closed.ok()) << closed;
  const absl::Status stale =
      context.DispatchBlocking<ZoomReply>("acme.v1.Camera/Zoom", zoom).status();
  EXPECT_EQ(runloop::ReasonOf(stale), runloop::v1::ERROR_REASON_UNKNOWN_HANDLE) << stale;
}

TEST_F(GuideTest, AnInvocationIsAwaited) {
  Start();
  const runloop::RuntimeContext context = Connect();
  const DescribeRequest request = Front();
  const ZoomRequest zoom = ZoomOf(context, 200);
  // [async]
  runloop::Invocation zoomed = context.DispatchAsync("acme.v1.Camera/Zoom", zoom);
  runloop::Invocation described =
      context.DispatchAsync<DescribeReply>("acme.v1.Camera/Describe", request);
  absl::Status status = zoomed.Await();
  absl::StatusOr<DescribeReply> reply = described.AwaitReply<DescribeReply>(absl::Seconds(30));
  // [/async]
  EXPECT_TRUE(status.ok()) << status;
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->height(), 1080u);
}

TEST_F(GuideTest, WhatIsCancelledOrStoppedNeverRuns) {
  Start();
  const runloop::RuntimeContext context = Connect();
  const ZoomRequest zoom = ZoomOf(context, 200);
  HoldThread();
  // [stop]
  std::stop_source user_left;
  runloop::Invocation zoomed =
      context.DispatchAsync("acme.v1.Camera/Zoom", zoom,
                            {.timeout = absl::Seconds(30), .stop_token = user_left.get_token()});
  user_left.request_stop();              // ends all that were given its token
  zoomed.Cancel();                       // or this one alone
  absl::Status status = zoomed.Await();  // CANCELLED: it had not started, and never runs
  // [/stop]
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  LetGo();
  ASSERT_TRUE(context.DispatchBlocking<DescribeReply>("acme.v1.Camera/Describe", Front()).ok());
  EXPECT_THAT(sdk_->zooms(), ElementsAre());
}

TEST_F(GuideTest, OnlyTheNewestOfAKeyRuns) {
  Start();
  const runloop::RuntimeContext context = Connect();
  ZoomRequest zoom = ZoomOf(context, 0);
  HoldThread();
  std::vector<runloop::Invocation> zooms;
  // [coalesce]
  for (uint32_t percent : {110, 120, 130}) {
    zoom.set_percent(percent);
    zooms.push_back(context.DispatchAsync("acme.v1.Camera/Zoom", zoom, {.coalesce_key = "zoom"}));
  }
  // [/coalesce]
  EXPECT_EQ(runloop::ReasonOf(zooms[0].Await()), runloop::v1::ERROR_REASON_SUPERSEDED);
  EXPECT_EQ(runloop::ReasonOf(zooms[1].Await()), runloop::v1::ERROR_REASON_SUPERSEDED);
  LetGo();
  EXPECT_TRUE(zooms[2].Await().ok());
  EXPECT_THAT(sdk_->zooms(), ElementsAre(130));
}

TEST_F(GuideTest, ARefusalSaysWhyAndACallMayWaitForRoom) {
  Start({.max_unfinished = 1});
  const runloop::RuntimeContext context = Connect();
  const ZoomRequest zoom = ZoomOf(context, 200);
  HoldThread();
  context.DispatchAsync("acme.v1.Camera/Zoom", zoom);  // takes the room that there is
  // [refusal]
  absl::Status status = context.DispatchAsync("acme.v1.Camera/Zoom", zoom).Await();
  bool full = runloop::ReasonOf(status) == runloop::v1::ERROR_REASON_QUEUE_FULL;
  absl::Duration try_again = runloop::RetryDelayOf(status).value_or(absl::Milliseconds(100));
  // [/refusal]
  EXPECT_TRUE(full) << status;
  EXPECT_GT(try_again, absl::ZeroDuration());
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  std::thread thread([this] { LetGo(); });
  // [wait_for_room]
  runloop::Invocation zoomed =
      context.DispatchAsync("acme.v1.Camera/Zoom", zoom, {.when_full = runloop::WhenFull::kWait});
  // [/wait_for_room]
  thread.join();
  EXPECT_TRUE(zoomed.Await().ok());
}

TEST_F(GuideTest, AnOperationIsDispatchedForLater) {
  Start();
  const runloop::RuntimeContext context = Connect();
  const ZoomRequest zoom = ZoomOf(context, 300);
  // [dispatch_after]
  runloop::Invocation later =
      context.DispatchAfter(absl::Milliseconds(20), "acme.v1.Camera/Zoom", zoom);
  // [/dispatch_after]
  EXPECT_TRUE(later.Await().ok());
  EXPECT_THAT(sdk_->zooms(), ElementsAre(300));
}

// [buffer_worker]
absl::StatusOr<EncodeReply> EncodeGrey(const runloop::RuntimeContext& context) {
  absl::StatusOr<runloop::Buffer> frame = context.NewBuffer(1920 * 1080);
  if (!frame.ok()) return frame.status();
  std::fill(frame->mutable_data().begin(), frame->mutable_data().end(), uint8_t{128});
  EncodeRequest request;
  *request.mutable_pixels() = frame->ref();  // a name; the bytes stay where they are
  return context.DispatchBlocking<EncodeReply>("acme.v1.Camera/Encode", request);
}
// [/buffer_worker]

TEST_F(GuideTest, AFrameLiesInABuffer) {
  Start();
  const absl::StatusOr<EncodeReply> reply = EncodeGrey(Connect());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->brightness(), 128u * 1920 * 1080);
}

// [descriptor_worker]
absl::StatusOr<ConfigureReply> Configure(const runloop::RuntimeContext& context, int file) {
  absl::StatusOr<uint64_t> id = context.SendDescriptor(file);  // the caller keeps its own
  if (!id.ok()) return id.status();
  ConfigureRequest request;
  request.set_file(*id);
  return context.DispatchBlocking<ConfigureReply>("acme.v1.Camera/Configure", request);
}
// [/descriptor_worker]

TEST_F(GuideTest, AFileDescriptorIsHandedOver) {
  Start();
  const runloop::UniqueFd file(memfd_create("profile", MFD_CLOEXEC));
  ASSERT_EQ(write(file.get(), "vivid", 5), 5);
  const absl::StatusOr<ConfigureReply> reply = Configure(Connect(), file.get());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->profile(), "vivid");
}

// [wrapper]
absl::Status Zoom(const runloop::RuntimeContext& context, const ZoomRequest& zoom,
                  runloop::SourceLocation where = runloop::SourceLocation::current()) {
  runloop::DispatchOptions options;
  options.trace_parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  return context.DispatchBlocking<ZoomReply>("acme.v1.Camera/Zoom", zoom, options, where).status();
}
// [/wrapper]

TEST_F(GuideTest, AHandlerKnowsWhereItWasDispatchedAndInWhichTrace) {
  std::string from, trace;
  runloop::OperationRegistry operations;
  // [origin]
  absl::Status added = operations.Register<ZoomRequest, ZoomReply>(
      "acme.v1.Camera/Zoom",
      [&](runloop::OperationContext& context, ZoomRequest) -> absl::StatusOr<ZoomReply> {
        from = context.call_site().ToString();  // file, line and function
        trace = context.trace_parent();         // what is dispatched here inherits it
        return ZoomReply();
      });
  // [/origin]
  ASSERT_TRUE(added.ok()) << added;
  Start(std::move(operations));
  const runloop::RuntimeContext context = Connect();
  const std::string here = "guide/operations_test.cc:" + std::to_string(__LINE__ + 1);
  const absl::Status status = Zoom(context, ZoomRequest());
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(from, HasSubstr(here + " "));
  EXPECT_EQ(trace, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
}

}  // namespace
}  // namespace acme

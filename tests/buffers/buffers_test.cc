// Buffers as a worker and an operation have them, over every way to a runtime.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <limits>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "runloop/runtime/unique_fd.h"
#include "runloop/tests/buffers/fixture.h"

namespace runloop {
namespace {

enum class Way { kInProcess, kShared, kInMessages };

class BuffersTest : public BuffersFixture, public testing::WithParamInterface<Way> {
 protected:
  RuntimeContext Context() {
    return GetParam() == Way::kInProcess ? runtime_->context().AsRuntimeContext()
                                         : Connect(GetParam() == Way::kInMessages);
  }
  bool in_messages() const { return GetParam() == Way::kInMessages; }
};

INSTANTIATE_TEST_SUITE_P(Ways, BuffersTest,
                         testing::Values(Way::kInProcess, Way::kShared, Way::kInMessages),
                         [](const auto& way) {
                           return way.param == Way::kInProcess ? "InProcess"
                                  : way.param == Way::kShared  ? "Shared"
                                                               : "InMessages";
                         });

TEST_P(BuffersTest, AnOperationSeesWhatTheWorkerWrote) {
  Start();
  const RuntimeContext context = Context();
  Buffer frame = Filled(context, 3'110'400, 2);
  frame.mutable_data()[10] = 7;
  absl::StatusOr<test::v1::SumReply> reply = Sum(context, frame.ref());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->size(), 3'110'400u);
  EXPECT_EQ(reply->sum(), 2u * 3'110'400 + 5);
  EXPECT_EQ(reply->in_message(), in_messages());
  reply = Sum(context, frame.ref(10, 2));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->sum(), 9u);
  EXPECT_EQ(count(), in_messages() ? 0 : 1);
}

TEST_P(BuffersTest, APieceOutsideIsRefused) {
  Start();
  const RuntimeContext context = Context();
  const Buffer frame = Filled(context, 4096, 1);
  constexpr size_t kMost = std::numeric_limits<size_t>::max();
  for (const auto& [offset, length] : std::vector<std::pair<size_t, size_t>>{
           {0, 4097}, {4096, 1}, {1, kMost}, {kMost, 1}, {kMost, kMost}, {2, kMost - 1}}) {
    const absl::Status refused = Sum(context, frame.ref(offset, length)).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << offset << " " << length;
  }
  EXPECT_TRUE(Sum(context, frame.ref(4096, 0)).ok());
}

TEST_P(BuffersTest, WhatAnOperationKeepsOutlivesTheWorkersBuffer) {
  Start();
  const RuntimeContext context = Context();
  Buffer frame = Filled(context, 8192, 3);
  ASSERT_TRUE(Hold(context, frame.ref()).ok());
  frame = Buffer();
  // Another one of the same size is not in the same memory.
  const Buffer next = Filled(context, 8192, 5);
  EXPECT_EQ(*Hold(context), 3u * 8192);
}

TEST_P(BuffersTest, AnOperationMakesABufferThatTheWorkerGivesBack) {
  Start();
  const RuntimeContext context = Context();
  if (in_messages()) {
    // Nothing to give: the host has no other way to a worker without descriptors.
    return;
  }
  test::v1::MakeBufferRequest request;
  request.set_size(10'000);
  request.set_fill(4);
  const auto made = context.DispatchBlocking<test::v1::MakeBufferReply>(kMakeBuffer, request);
  ASSERT_TRUE(made.ok()) << made.status();
  {
    const absl::StatusOr<Buffer> buffer = context.OpenBuffer(made->buffer());
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->size(), 10'000u);
    EXPECT_EQ(Sum(buffer->data()), 40'000u);
    EXPECT_EQ(context.OpenBuffer(made->buffer())->data().data(), buffer->data().data());
    EXPECT_EQ(Sum(context, buffer->ref())->sum(), 40'000u);
  }
  EXPECT_EQ(count(), GetParam() == Way::kInProcess ? 0 : 1);  // kept for the next one
}

TEST_P(BuffersTest, NothingIsLeftWhenTheWorkerHasGone) {
  Start();
  {
    const RuntimeContext context = Context();
    const Buffer kept = Filled(context, 5000, 1), held = Filled(context, 5000, 2);
    ASSERT_TRUE(Hold(context, held.ref()).ok());
  }
  const RuntimeContext other = Context();
  EXPECT_EQ(*Hold(other), 10'000u);
  AwaitCount(0);
}

TEST_P(BuffersTest, ADescriptorIsTakenOnce) {
  Start();
  const RuntimeContext context = Context();
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]), writer(ends[1]);
  ASSERT_EQ(write(writer.get(), "by fd", 5), 5);
  const absl::StatusOr<uint64_t> id = context.SendDescriptor(reader.get());
  if (in_messages()) {
    EXPECT_TRUE(absl::IsFailedPrecondition(id.status()));
    return;
  }
  ASSERT_TRUE(id.ok()) << id.status();
  test::v1::ReadDescriptorRequest request;
  request.set_descriptor_id(*id);
  const auto read =
      context.DispatchBlocking<test::v1::ReadDescriptorReply>(kReadDescriptor, request);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->text(), "by fd");
  EXPECT_EQ(
      ReasonOf(context.DispatchBlocking<test::v1::ReadDescriptorReply>(kReadDescriptor, request)
                   .status()),
      v1::ERROR_REASON_UNKNOWN_BUFFER);
  EXPECT_EQ(count(), 0);
}

using SharedBuffersTest = BuffersFixture;

TEST_F(SharedBuffersTest, AWorkerThatSendsFrameAfterFrameUsesOneBuffer) {
  Start();
  const RuntimeContext context = Connect();
  std::set<const uint8_t*> places;
  for (int i = 0; i < 200; ++i) {
    const Buffer frame = Filled(context, size_t{10'000} + static_cast<size_t>(i), 1);
    places.insert(frame.data().data());
    ASSERT_TRUE(Sum(context, frame.ref()).ok());
  }
  EXPECT_EQ(places.size(), 1u);
  EXPECT_EQ(count(), 1);
}

TEST_F(SharedBuffersTest, ABufferIsUsedAgainOnceNoOperationHoldsIt) {
  Start();
  const RuntimeContext context = Connect();
  Buffer frame = Filled(context, 8192, 3);
  const uint8_t* const place = frame.data().data();
  EXPECT_FALSE(frame.held_by_operation());
  ASSERT_TRUE(Hold(context, frame.ref()).ok());
  EXPECT_TRUE(frame.held_by_operation());
  frame = Buffer();
  frame = Filled(context, 8192, 5);
  EXPECT_NE(frame.data().data(), place);
  EXPECT_EQ(*Hold(context), 3u * 8192);
  const Buffer again = Filled(context, 8192, 6);
  EXPECT_EQ(again.data().data(), place);
  EXPECT_EQ(count(), 2);
}

TEST_F(SharedBuffersTest, AGrantedBufferIsSeenByAnotherWorkerWithoutACopy) {
  Start();
  const RuntimeContext source = Connect(), filter = Connect();
  Buffer frame = Filled(source, 8192, 3);
  const v1::BufferRef ref = frame.ref();
  EXPECT_EQ(ReasonOf(filter.OpenBuffer(ref).status()), v1::ERROR_REASON_UNKNOWN_BUFFER);
  EXPECT_EQ(ReasonOf(Sum(filter, ref).status()), v1::ERROR_REASON_UNKNOWN_BUFFER);
  ASSERT_TRUE(source.Grant(frame, filter.session_id()).ok());
  const absl::StatusOr<Buffer> seen = filter.OpenBuffer(ref);
  ASSERT_TRUE(seen.ok()) << seen.status();
  EXPECT_FALSE(seen->writable());
  frame.mutable_data()[0] = 9;
  EXPECT_EQ(seen->data()[0], 9);
  EXPECT_EQ(Sum(filter, seen->ref())->sum(), 3u * 8192 + 6);
  // Given back, it is not used for what its reader is not to see.
  const uint8_t* const place = frame.data().data();
  frame = Buffer();
  AwaitCount(0);
  const Buffer next = Filled(source, 8192, 1);
  EXPECT_NE(seen->data().data(), place);
  EXPECT_EQ(seen->data()[0], 9);
  EXPECT_EQ(ReasonOf(Sum(filter, ref).status()), v1::ERROR_REASON_UNKNOWN_BUFFER);
}

TEST_F(SharedBuffersTest, WhoWasGrantedItForWritingWritesToIt) {
  Start();
  const RuntimeContext source = Connect(), filter = Connect();
  const Buffer frame = Filled(source, 4096, 0);
  ASSERT_TRUE(source.Grant(frame, filter.session_id(), BufferAccess::kWrite).ok());
  absl::StatusOr<Buffer> seen = filter.OpenBuffer(frame.ref(16, 16));
  ASSERT_TRUE(seen.ok()) << seen.status();
  seen->mutable_data()[0] = 8;
  EXPECT_EQ(frame.data()[16], 8);
  EXPECT_FALSE(source.Grant(frame, "nobody").ok());
}

TEST_F(SharedBuffersTest, WhatIsKeptMakesRoomForWhatIsAskedFor) {
  const auto rings = static_cast<int64_t>(internal::kBufferPage) + 2 * HostOptions().ring_bytes;
  Start({.session = {.items = 4, .bytes = (1 << 20) + rings}});
  const RuntimeContext context = Connect();
  for (size_t size = 4096; size <= 1 << 20; size *= 2) {
    const Buffer frame = Filled(context, size, 1);
    ASSERT_TRUE(Sum(context, frame.ref()).ok());
  }
  const Buffer all = Filled(context, 1 << 20, 1);
  EXPECT_EQ(ReasonOf(context.NewBuffer(1).status()), v1::ERROR_REASON_BUFFERS_FULL);
}

TEST_F(SharedBuffersTest, BuffersOfALostSessionAreUnknownToTheNext) {
  Start();
  const RuntimeContext context = Connect();
  const Buffer before = Filled(context, 4096, 1);
  const std::string session = context.session_id();
  host_.reset();
  runtime_.reset();
  Start();
  EXPECT_EQ(ReasonOf(Sum(context, before.ref()).status()), v1::ERROR_REASON_UNKNOWN_BUFFER);
  EXPECT_NE(context.session_id(), session);
  EXPECT_EQ(before.data()[4095], 1);
  const Buffer after = Filled(context, 4096, 2);
  EXPECT_EQ(Sum(context, after.ref())->sum(), 2u * 4096);
}

TEST_F(SharedBuffersTest, AReaderSeesAWriterChangeItAndLivesOn) {
  Start();
  const RuntimeContext context = Connect();
  Buffer frame = Filled(context, size_t{1} << 20, 0);
  std::atomic<bool> stop{false};
  std::thread writer([&, frame]() mutable {
    uint8_t fill = 0;
    while (!stop) {
      ++fill;
      for (uint8_t& byte : frame.mutable_data()) *static_cast<volatile uint8_t*>(&byte) = fill;
    }
  });
  for (int i = 0; i < 20; ++i) {
    const absl::StatusOr<test::v1::SumReply> reply = Sum(context, frame.ref());
    EXPECT_TRUE(reply.ok() && reply->sum() <= uint64_t{255} << 20) << reply.status();
  }
  stop = true;
  writer.join();
}

}  // namespace
}  // namespace runloop

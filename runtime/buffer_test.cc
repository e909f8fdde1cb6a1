#include "runloop/runtime/buffer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/lingering_socket.h"
#include "runloop/tests/testing/remote_session.h"

namespace runloop {
namespace {

using internal::BufferRegistry;

class BufferTest : public testing::Test {
 protected:
  explicit BufferTest(BufferBounds bounds = {}) {
    runtime_ = *Runtime::Create({.thread = RuntimeThread::kSpawn,
                                 .buffer_bounds = bounds,
                                 .log = [](LogSeverity, std::string_view) {}});
  }
  BufferRegistry& buffers() { return runtime_->core()->buffers(); }
  std::shared_ptr<Session> NewSession(PeerIdentity peer = {.pid = 100, .uid = 1000}) {
    return runtime_->core()->OpenSession(
        {.client_name = "test", .peer = std::move(peer), .transport = "stream"});
  }
  static v1::BufferRef Ref(uint64_t id, uint64_t offset, uint64_t length) {
    v1::BufferRef ref;
    ref.set_buffer(id);
    ref.set_offset(offset);
    ref.set_length(length);
    return ref;
  }

  std::unique_ptr<Runtime> runtime_;
};

TEST_F(BufferTest, APieceLiesWithinItsBuffer) {
  const auto session = NewSession();
  const auto made = buffers().Create(session, 5000);
  ASSERT_TRUE(made.ok()) << made.status();
  const uint64_t size = made->memory->size();
  EXPECT_EQ(size, 8192u);
  EXPECT_EQ(buffers().Open(*session, Ref(made->id, 0, size))->size(), size);
  EXPECT_EQ(buffers().Open(*session, Ref(made->id, size, 0))->size(), 0u);
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  const std::pair<uint64_t, uint64_t> outside[] = {
      {0, size + 1}, {1, size}, {size + 1, 0}, {kMost, 1}, {1, kMost}, {kMost, kMost}, {kMost, 2}};
  for (const auto& [offset, length] : outside) {
    const absl::Status refused = buffers().Open(*session, Ref(made->id, offset, length)).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << offset << " " << length;
    EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_INVALID_REQUEST);
  }
}

TEST_F(BufferTest, BytesInTheMessageAreTheWholePiece) {
  const auto session = NewSession();
  v1::BufferRef ref = Buffer::OfBytes("frame").ref(1, 3);
  EXPECT_EQ(ref.bytes(), "ram");
  absl::StatusOr<Buffer> opened = buffers().Open(*session, ref);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(std::string(opened->data().begin(), opened->data().end()), "ram");
  ref.set_length(4);
  EXPECT_FALSE(buffers().Open(*session, ref).ok());
  ref.set_length(3);
  ref.set_offset(1);
  EXPECT_FALSE(buffers().Open(*session, ref).ok());
  EXPECT_FALSE(buffers().Open(*session, Buffer::OfBytes("frame").ref(3, 4)).ok());
  EXPECT_EQ(buffers().Open(*session, {})->size(), 0u);
}

TEST_F(BufferTest, AWrongAStaleAndAnotherSessionsIdLookTheSame) {
  const auto session = NewSession(), other = NewSession();
  const auto made = buffers().Create(session, 1);
  const auto released = buffers().Create(session, 1);
  ASSERT_TRUE(buffers().Release(*session, released->id).ok());
  const absl::Status stale = buffers().Open(*session, Ref(released->id, 0, 1)).status();
  const absl::Status foreign = buffers().Open(*other, Ref(made->id, 0, 1)).status();
  const absl::Status wrong = buffers().Open(*session, Ref(made->id + 100, 0, 1)).status();
  for (const absl::Status& refused :
       {stale, foreign, wrong, buffers().Release(*session, released->id),
        buffers().Release(*other, made->id)}) {
    EXPECT_EQ(refused.code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_UNKNOWN_BUFFER);
  }
  EXPECT_EQ(buffers().refused(), 5u);
}

TEST_F(BufferTest, WhatAnOperationHoldsStaysAndIsChargedUntilItLetsGo) {
  const auto session = NewSession();
  const auto id = buffers().Create(session, 4096)->id;
  absl::StatusOr<Buffer> held = buffers().Open(*session, Ref(id, 0, 4096));
  ASSERT_TRUE(held.ok());
  ASSERT_TRUE(buffers().Release(*session, id).ok());
  held->mutable_data()[4095] = 7;
  EXPECT_EQ(held->data()[4095], 7);
  EXPECT_EQ(buffers().HeldBy(*session).items, 1);
  EXPECT_EQ(buffers().GetBounds()[0].held.bytes, 4096);
  held = Buffer();
  EXPECT_EQ(buffers().HeldBy(*session).items, 0);
  EXPECT_EQ(buffers().GetBounds()[0].held.bytes, 0);
}

TEST_F(BufferTest, TheSessionsEndEndsItsBuffersAndGrants) {
  const auto session = NewSession(), other = NewSession();
  const auto id = buffers().Create(session, 4096)->id;
  ASSERT_TRUE(buffers().Grant(*session, id, other, false).ok());
  absl::StatusOr<Buffer> granted = buffers().Open(*other, Ref(id, 0, 1));
  ASSERT_TRUE(granted.ok()) << granted.status();
  EXPECT_FALSE(granted->writable());
  EXPECT_TRUE(granted->mutable_data().empty());
  session->End();
  EXPECT_EQ(granted->data()[0], 0);
  granted = Buffer();
  EXPECT_FALSE(buffers().Open(*other, Ref(id, 0, 1)).ok());
  EXPECT_EQ(buffers().GetBounds()[0].held.items, 0);
  EXPECT_EQ(ReasonOf(buffers().Create(session, 1).status()), v1::ERROR_REASON_SESSION_ENDED);
}

TEST_F(BufferTest, WhoWasGrantedItForReadingIsNotGivenItForWriting) {
  const auto session = NewSession(), reader = NewSession(), writer = NewSession();
  const auto id = buffers().Create(session, 4096)->id;
  ASSERT_TRUE(buffers().Grant(*session, id, reader, false).ok());
  ASSERT_TRUE(buffers().Grant(*session, id, reader, false).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(buffers().Grant(*session, id, writer, true)));
  // Nor may it be granted on by somebody else than its owner.
  EXPECT_TRUE(absl::IsNotFound(buffers().Grant(*reader, id, writer, false)));
  const auto second = buffers().Create(session, 4096)->id;
  ASSERT_TRUE(buffers().Grant(*session, second, writer, true).ok());
  EXPECT_TRUE(buffers().Open(*writer, Ref(second, 0, 1))->writable());
  EXPECT_TRUE(absl::IsFailedPrecondition(buffers().Grant(*session, second, reader, false)));
  // A reader that releases loses the right, and the owner may grant it again.
  ASSERT_TRUE(buffers().Release(*reader, id).ok());
  EXPECT_FALSE(buffers().Open(*reader, Ref(id, 0, 1)).ok());
  EXPECT_TRUE(buffers().Grant(*session, id, reader, false).ok());
}

TEST_F(BufferTest, ABufferIsGrantedToABoundedNumberOfSessions) {
  const auto session = NewSession();
  const auto id = buffers().Create(session, 4096)->id;
  for (size_t i = 0; i < BufferRegistry::kMaxGrants; ++i) {
    ASSERT_TRUE(buffers().Grant(*session, id, NewSession(), false).ok());
  }
  EXPECT_EQ(ReasonOf(buffers().Grant(*session, id, NewSession(), false)),
            v1::ERROR_REASON_BUFFERS_FULL);
}

class BufferBoundsTest : public BufferTest {
 protected:
  BufferBoundsTest()
      : BufferTest({.total = {.items = 8, .bytes = 64 << 20},
                    .user = {.items = 4, .bytes = 32 << 20},
                    .session = {.items = 3, .bytes = 16 << 20}}) {}
};

TEST_F(BufferBoundsTest, WhatDoesNotFitIsRefusedWithWhoHoldsTheRoom) {
  const auto session = NewSession(), other = NewSession();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(buffers().Create(session, 1).ok());
  absl::Status full = buffers().Create(session, 1).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(full), v1::ERROR_REASON_BUFFERS_FULL);
  EXPECT_NE(full.message().find("the session has 3 of 3 buffers"), full.message().npos) << full;
  ASSERT_TRUE(buffers().Create(other, 1).ok());
  full = buffers().Create(other, 1).status();
  EXPECT_NE(full.message().find("uid 1000 has 4 of 4 buffers"), full.message().npos) << full;
  EXPECT_NE(full.message().find("most are of session " + session->info().id), full.message().npos)
      << full;
  EXPECT_EQ(buffers().refused(), 2u);
}

TEST_F(BufferBoundsTest, ABufferThatCanNeverFitIsToldSo) {
  const auto session = NewSession();
  for (const uint64_t size : {uint64_t{17} << 20, std::numeric_limits<uint64_t>::max(),
                              std::numeric_limits<uint64_t>::max() - 4095}) {
    const absl::Status full = buffers().Create(session, size).status();
    EXPECT_EQ(ReasonOf(full), v1::ERROR_REASON_BUFFERS_FULL);
    EXPECT_NE(full.message().find("can never fit"), full.message().npos) << full;
  }
  EXPECT_EQ(ReasonOf(buffers().Create(session, 0).status()), v1::ERROR_REASON_INVALID_REQUEST);
  EXPECT_EQ(buffers().GetBounds()[0].held.items, 0);
}

TEST_F(BufferBoundsTest, WhoCameByARoleIsNotToldOfOthers) {
  const PeerIdentity camera{.pid = 1, .uid = 1000, .role = "camera"};
  const auto first = NewSession(camera), second = NewSession(camera);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(buffers().Create(first, 1).ok());
  ASSERT_TRUE(buffers().Create(second, 1).ok());
  const absl::Status full = buffers().Create(second, 1).status();
  EXPECT_NE(full.message().find("role camera has 4 of 4"), full.message().npos) << full;
  EXPECT_EQ(full.message().find(first->info().id), full.message().npos) << full;
  EXPECT_NE(full.message().find("another session"), full.message().npos) << full;
}

TEST_F(BufferBoundsTest, DescriptorsThatWaitCountAndAreClosedWithTheSession) {
  const auto session = NewSession();
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const UniqueFd reader(ends[0]);
  const absl::StatusOr<uint64_t> id = buffers().AddDescriptor(session, UniqueFd(ends[1]));
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(buffers().HeldBy(*session).items, 1);
  EXPECT_FALSE(buffers().TakeDescriptor(*NewSession(), *id).ok());
  absl::StatusOr<UniqueFd> taken = buffers().TakeDescriptor(*session, *id);
  ASSERT_TRUE(taken.ok());
  EXPECT_TRUE(absl::IsNotFound(buffers().TakeDescriptor(*session, *id).status()));
  EXPECT_EQ(buffers().HeldBy(*session).items, 0);
  ASSERT_TRUE(buffers().AddDescriptor(session, *std::move(taken)).ok());
  session->End();
  char byte;
  EXPECT_EQ(read(reader.get(), &byte, 1), 0);  // the other end is closed
}

TEST_F(BufferTest, ASessionsEndDoesNotWaitUntilItsDescriptorsAreClosed) {
  LingeringSocket socket;
  const auto session = NewSession();
  ASSERT_TRUE(buffers().AddDescriptor(session, socket.Take()).ok());
  session->End();
  EXPECT_EQ(buffers().GetBounds()[0].held.items, 1);
  socket.reader.Reset();
  while (buffers().GetBounds()[0].held.items != 0) std::this_thread::yield();
}

TEST_F(BufferTest, NobodyWaitsUntilADescriptorThatWasRefusedIsClosed) {
  LingeringSocket socket, other;
  const auto session = NewSession();
  session->End();
  EXPECT_EQ(ReasonOf(buffers().AddDescriptor(session, socket.Take()).status()),
            v1::ERROR_REASON_SESSION_ENDED);
  const PeerIdentity& peer = session->info().peer;
  EXPECT_EQ(buffers().Unclosed(peer), 1);
  std::vector<UniqueFd> refused;
  refused.push_back(other.Take());
  buffers().Refuse(peer, std::move(refused));
  EXPECT_EQ(buffers().Unclosed(peer), 2);
  EXPECT_EQ(buffers().Unclosed({.pid = 101, .uid = 1000}), 0);
  EXPECT_EQ(buffers().refused(), 1u);
  socket.reader.Reset();
  other.reader.Reset();
  while (buffers().Unclosed(peer) != 0) std::this_thread::yield();
}

TEST(DescriptorCloserTest, ItsEndDoesNotWait) {
  LingeringSocket socket;
  const auto account = std::make_shared<internal::Account>("uid 1000", Bound{});
  {
    internal::DescriptorCloser closer;
    std::vector<internal::ChargedDescriptor> descriptors;
    descriptors.push_back({internal::BufferCharge({account}, 1, 0), socket.Take()});
    closer.Close(std::move(descriptors));
  }
  EXPECT_EQ(account->held().items, 1);
  socket.reader.Reset();
  while (account->held().items != 0) std::this_thread::yield();
}

TEST_F(BufferTest, MuchMemoryIsFreedOnAThreadOfItsOwn) {
  for (int round = 0; round < 3; ++round) {
    const auto session = NewSession();
    for (int i = 0; i < 4; ++i) {
      const auto made = buffers().Create(session, 3 << 20);
      ASSERT_TRUE(made.ok()) << made.status();
      buffers().Open(*session, Ref(made->id, 0, 1))->mutable_data()[0] = 1;
    }
    session->End();
  }
  while (buffers().GetBounds()[0].held.items != 0) std::this_thread::yield();
}

TEST_F(BufferTest, InProcessABufferIsPlainMemoryThatItsLastCopyReleases) {
  const RuntimeContext context = runtime_->context().AsRuntimeContext();
  absl::StatusOr<Buffer> made = context.NewBuffer(100);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->size(), 100u);
  made->mutable_data()[99] = 9;
  const v1::BufferRef ref = made->ref(99, 1);
  absl::StatusOr<Buffer> again = context.OpenBuffer(ref);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->data().data(), made->data().data() + 99);
  made = Buffer();
  EXPECT_EQ(again->data()[0], 9);
  EXPECT_EQ(buffers().GetBounds()[0].held.items, 1);
  again = Buffer();
  EXPECT_EQ(buffers().GetBounds()[0].held.items, 0);
  EXPECT_TRUE(absl::IsNotFound(context.OpenBuffer(ref).status()));
}

}  // namespace
}  // namespace runloop

#include "runloop/ipc/ring.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <random>
#include <string>
#include <thread>
#include <vector>

namespace runloop {
namespace {

constexpr uint64_t kMaxMessage = 1 << 20;

std::string Pattern(size_t size, size_t seed) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>((i * 7 + seed) & 0xFF);
  return bytes;
}

class RingTest : public testing::Test {
 protected:
  static absl::Status Write(RingEnd& end, std::string_view message) {
    return end.writer().Write(absl::MakeConstSpan(&message, 1));
  }
  static absl::StatusOr<std::optional<std::string>> Next(RingEnd& end) {
    const absl::StatusOr<std::optional<std::string_view>> message = end.reader().Next();
    if (!message.ok()) return message.status();
    if (!message->has_value()) return std::nullopt;
    return std::string(**message);
  }

  RingMemory memory_ = *RingMemory::Create(kMinRingBytes, 2 * kMinRingBytes);
  RingEnd worker_ = memory_.NewEnd(RingEnd::Side::kWorker, kMaxMessage);
  RingEnd daemon_ = memory_.NewEnd(RingEnd::Side::kDaemon, kMaxMessage);
};

TEST_F(RingTest, CarriesMessagesBothWaysInTheirOrder) {
  ASSERT_TRUE(Write(worker_, "one").ok());
  ASSERT_TRUE(Write(worker_, "").ok());
  ASSERT_TRUE(Write(daemon_, "answer").ok());
  const std::string_view pieces[] = {"t", "w", "", "o"};
  ASSERT_TRUE(worker_.writer().Write(pieces).ok());
  EXPECT_EQ(**Next(daemon_), "one");
  EXPECT_EQ(**Next(daemon_), "");
  EXPECT_EQ(**Next(daemon_), "two");
  EXPECT_EQ(*Next(daemon_), std::nullopt);
  EXPECT_EQ(**Next(worker_), "answer");
  EXPECT_EQ(*Next(worker_), std::nullopt);
}

TEST_F(RingTest, MessagesOfAnySizeGoRoundTheRingInParts) {
  std::mt19937 random(7);
  for (size_t i = 0; i < 2000; ++i) {
    const size_t size = i % 97 == 0 ? 50'000 : random() % 700;
    const std::string message = Pattern(size, i);
    ASSERT_TRUE(Write(worker_, message).ok());
    absl::StatusOr<std::optional<std::string>> read = Next(daemon_);
    while (read.ok() && !read->has_value()) {
      ASSERT_GT(worker_.writer().left(), 0U);
      ASSERT_TRUE(worker_.writer().Flush().ok());
      read = Next(daemon_);
    }
    ASSERT_TRUE(read.ok());
    ASSERT_EQ(**read, message);
    ASSERT_EQ(worker_.writer().left(), 0U);
  }
}

TEST_F(RingTest, TwoThreadsThatSleepAndRing) {
  constexpr int kMessages = 20'000;
  // What bells are for here: a flag that is waited for.
  std::atomic<bool> for_daemon{false}, for_worker{false};
  std::thread daemon([&] {
    int got = 0;
    while (got < kMessages) {
      const absl::StatusOr<std::optional<std::string>> message = Next(daemon_);
      ASSERT_TRUE(message.ok());
      if (daemon_.TakeBell()) {
        for_worker = true;
        for_worker.notify_one();
      }
      if (message->has_value()) {
        ASSERT_EQ(**message, Pattern(static_cast<size_t>(got % 3000), static_cast<size_t>(got)));
        ++got;
      } else if (daemon_.AnnounceSleep()) {
        for_daemon.wait(false);
        for_daemon = false;
      }
    }
  });
  for (int i = 0; i < kMessages; ++i) {
    ASSERT_TRUE(
        Write(worker_, Pattern(static_cast<size_t>(i % 3000), static_cast<size_t>(i))).ok());
    while (true) {
      if (worker_.TakeBell()) {
        for_daemon = true;
        for_daemon.notify_one();
      }
      if (worker_.writer().left() == 0) break;
      if (!worker_.writer().has_room() && worker_.AnnounceSleep()) {
        for_worker.wait(false);
        for_worker = false;
      }
      ASSERT_TRUE(worker_.writer().Flush().ok());
    }
  }
  daemon.join();
}

TEST_F(RingTest, NobodyIsRungWhoHasNotAsked) {
  ASSERT_TRUE(Write(worker_, "one").ok());
  EXPECT_FALSE(worker_.TakeBell());
  EXPECT_FALSE(daemon_.AnnounceSleep()) << "there is something to read";
  EXPECT_EQ(**Next(daemon_), "one");
  EXPECT_TRUE(daemon_.AnnounceSleep());
  EXPECT_FALSE(worker_.TakeBell()) << "nothing was written since";
  ASSERT_TRUE(Write(worker_, "two").ok());
  EXPECT_TRUE(worker_.TakeBell());
  ASSERT_TRUE(Write(worker_, "three").ok());
  EXPECT_FALSE(worker_.TakeBell()) << "once is enough";
  EXPECT_TRUE(daemon_.AnnounceSleep(false)) << "it does not read";
}

TEST_F(RingTest, WhoWaitsForRoomIsRungWhenHalfIsFree) {
  ASSERT_TRUE(Write(worker_, Pattern(10'000, 1)).ok());
  ASSERT_GT(worker_.writer().left(), 0U);
  EXPECT_TRUE(worker_.AnnounceSleep());
  EXPECT_EQ(*Next(daemon_), std::nullopt);
  EXPECT_TRUE(daemon_.TakeBell());
  EXPECT_FALSE(worker_.AnnounceSleep());
}

TEST_F(RingTest, ALengthBeyondTheBoundBreaksIt) {
  ASSERT_TRUE(Write(worker_, Pattern(kMaxMessage + 1, 1)).ok());
  EXPECT_FALSE(Next(daemon_).ok());
  EXPECT_FALSE(Next(daemon_).ok());
  EXPECT_EQ(daemon_.reader().long_bytes(), 0U) << "nothing was kept for it";
}

TEST_F(RingTest, CountersThatLieBreakIt) {
  RingHeader& header = memory_.header();
  ASSERT_TRUE(Write(worker_, "one").ok());
  for (const uint64_t tail : {~uint64_t{0}, uint64_t{kMinRingBytes + 1}}) {
    RingEnd reads = memory_.NewEnd(RingEnd::Side::kDaemon, kMaxMessage);
    header.requests.tail.store(tail);
    EXPECT_FALSE(Next(reads).ok()) << tail;
  }
  for (const uint64_t head : {~uint64_t{0}, uint64_t{10}, uint64_t{1} << 40}) {
    RingEnd writes = memory_.NewEnd(RingEnd::Side::kDaemon, kMaxMessage);
    header.responses.head.store(head);
    ASSERT_TRUE(Write(writes, "x").ok()) << "there was room in any case";
    ASSERT_TRUE(Write(writes, "").ok());
    EXPECT_FALSE(Write(writes, Pattern(3 * kMinRingBytes, 1)).ok()) << head;
  }
  // Read once, and then not.
  RingEnd writes = memory_.NewEnd(RingEnd::Side::kDaemon, kMaxMessage);
  header.responses.head.store(0);
  ASSERT_TRUE(Write(writes, Pattern(9000, 1)).ok());
  header.responses.head.store(800);
  ASSERT_TRUE(writes.writer().Flush().ok());
  header.responses.head.store(799);
  EXPECT_FALSE(writes.writer().Flush().ok());
}

TEST_F(RingTest, LongMessagesLeaveNoMemoryBehind) {
  ASSERT_TRUE(Write(worker_, Pattern(900'000, 1)).ok());
  while (worker_.writer().left() > 0) {
    ASSERT_EQ(*Next(daemon_), std::nullopt);
    ASSERT_TRUE(worker_.writer().Flush().ok());
  }
  EXPECT_GT(daemon_.reader().long_bytes(), 800'000U);
  EXPECT_EQ((*Next(daemon_))->size(), 900'000U);
  EXPECT_GT(daemon_.reader().long_bytes(), 0U) << "it is still there";
  daemon_.reader().Release();
  EXPECT_EQ(daemon_.reader().long_bytes(), 0U);
}

TEST_F(RingTest, NoMoreIsTakenThanIsAskedFor) {
  ASSERT_TRUE(Write(worker_, Pattern(3000, 1)).ok());
  for (size_t taken = 0; taken < 3000; taken += 1000) {
    size_t budget = 1000;
    EXPECT_EQ(*daemon_.reader().Next(budget), std::nullopt);
    EXPECT_EQ(budget, 0U);
    EXPECT_EQ(daemon_.reader().position(), taken + 1000);
    EXPECT_TRUE(daemon_.reader().has_bytes());
  }
  EXPECT_EQ(**Next(daemon_), Pattern(3000, 1));
}

TEST(RingMemoryTest, IsSealedAndMappedOnlyAsItIs) {
  absl::StatusOr<RingMemory> memory = RingMemory::Create(kMinRingBytes, kMinRingBytes);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const UniqueFd file = memory->TakeFile();
  EXPECT_EQ(ftruncate(file.get(), 0), -1);
  EXPECT_EQ(fcntl(file.get(), F_ADD_SEALS, F_SEAL_WRITE), -1);
  const auto map = [&](uint64_t requests, uint64_t responses) {
    return RingMemory::Map(UniqueFd(dup(file.get())), requests, responses).status();
  };
  EXPECT_TRUE(map(kMinRingBytes, kMinRingBytes).ok());
  EXPECT_FALSE(map(kMinRingBytes, 2 * kMinRingBytes).ok());
  EXPECT_FALSE(map(kMinRingBytes + 1, kMinRingBytes - 1).ok());
  EXPECT_FALSE(map(0, 2 * kMinRingBytes).ok());
  UniqueFd unsealed(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.get(), 3 * static_cast<off_t>(kMinRingBytes)), 0);
  EXPECT_FALSE(RingMemory::Map(std::move(unsealed), kMinRingBytes, kMinRingBytes).ok());
}

TEST(RingMemoryTest, SizesArePowersOfTwoWithinBounds) {
  EXPECT_TRUE(IsRingSize(kMinRingBytes));
  EXPECT_TRUE(IsRingSize(kMaxRingBytes));
  for (const uint64_t size :
       {uint64_t{0}, uint64_t{2048}, uint64_t{5000}, uint64_t{2} * kMaxRingBytes}) {
    EXPECT_FALSE(IsRingSize(size)) << size;
  }
}

}  // namespace
}  // namespace runloop

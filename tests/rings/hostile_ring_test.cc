// Workers that use a ring as they should not, beside one that does: the session of the one ends,
// the other goes on.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/session_protocol.h"
#include "runloop/tests/rings/fixture.h"

namespace runloop {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kLittle = kMinRingBytes;
// Of a worker that does not read.
constexpr size_t kMaxUnsent = daemon::SessionProtocol::kMaxUnsentBytes;

class HostileRingTest : public RingsFixture {
 protected:
  // A worker with a ring.
  struct Raw {
    explicit Raw(const std::string& path) : session(path), ring(path) {
      EXPECT_EQ(session.welcome().transport(), v1::TRANSPORT_RING);
      ring.Attach(session);
    }
    RawSession session;
    RawRing ring;
  };

  // The session ends so, and its channel with it.
  void ExpectViolation(Raw& raw, const std::string& what) {
    const absl::Status end = raw.session.End();
    EXPECT_EQ(ReasonOf(end), v1::ERROR_REASON_PROTOCOL_VIOLATION) << end;
    EXPECT_THAT(std::string(end.message()), HasSubstr(what));
    EXPECT_TRUE(raw.ring.AwaitEnd());
  }
};

// ---- numbers ----

TEST_F(HostileRingTest, ATailThatJumps) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  {
    Raw ahead(path());
    EXPECT_EQ(ahead.ring.Outcome(ahead.ring.Echo(10)), absl::OkStatus());
    ahead.ring.header().requests.tail.fetch_add(ahead.ring.request_bytes() + 1);
    ahead.ring.RingBell();
    ExpectViolation(ahead, "its tail jumped");
    ExpectOnly(honest);
  }
  {
    Raw back(path());
    EXPECT_EQ(back.ring.Outcome(back.ring.Echo(10)), absl::OkStatus());
    back.ring.header().requests.tail.store(0);
    back.ring.RingBell();
    ExpectViolation(back, "its tail jumped");
    ExpectOnly(honest);
  }
  {
    // As far as it may.
    Raw full(path());
    full.ring.header().requests.tail.store(full.ring.request_bytes());
    full.ring.RingBell();  // a ring full of empty messages
    EXPECT_TRUE(Await(
        [&] { return full.ring.header().requests.head.load() == full.ring.request_bytes(); }));
    EXPECT_FALSE(full.ring.HasEnded());
  }
  ExpectOnly(honest);
}

TEST_F(HostileRingTest, AHeadThatJumpsOrGoesBack) {
  Start({.ring_bytes = kLittle});
  const RuntimeContext honest = ConnectByRing();
  {
    Raw ahead(path());
    ahead.ring.header().responses.head.store(uint64_t{1} << 40);  // was never written
    ahead.ring.Echo(kLittle - 512);
    ahead.ring.Echo(512);
    ExpectViolation(ahead, "its head jumped");
    ExpectOnly(honest);
  }
  {
    Raw back(path());
    // More than the ring's size, so that the daemon has looked at the head.
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(back.ring.Outcome(back.ring.Echo(kLittle / 2)), absl::OkStatus());
    }
    back.ring.header().responses.head.store(0);
    back.ring.Echo(kLittle);
    ExpectViolation(back, "its head jumped");
  }
  ExpectOnly(honest);
}

TEST_F(HostileRingTest, ALengthAboveTheBound) {
  constexpr int64_t kMost = 100'000;
  Start({.max_message_bytes = kMost});
  const RuntimeContext honest = ConnectByRing();
  for (const uint32_t length : {uint32_t{kMost} + 1, uint32_t{0xFFFF'FFFF}}) {
    Raw raw(path());
    std::string bytes;
    for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<char>(length >> (8 * i)));
    raw.ring.SayRaw(bytes);
    ExpectViolation(raw, absl::StrCat("a message of ", length, " bytes"));
    ExpectOnly(honest);
  }
}

// ---- messages ----

TEST_F(HostileRingTest, AMessageThatIsNotShortWithTwoDispatches) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  // The second is read by another thread.
  for (const size_t size : {size_t{17} << 10, size_t{100} << 10}) {
    Raw raw(path());
    EXPECT_EQ(raw.ring.Outcome(raw.ring.Echo(size)), absl::OkStatus());
    test::v1::EchoRequest echo;
    echo.set_text(std::string(size, 'x'));
    v1::SessionRequest message;
    raw.ring.Add(message, kEcho, echo);
    raw.ring.Add(message, kEcho, test::v1::EchoRequest());
    raw.ring.Say(message);
    ExpectViolation(raw, "held 2 things");
    ExpectOnly(honest);
  }
}

TEST_F(HostileRingTest, AMessageThatIsNotShortWithABatchAndSomethingElse) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  // A batch alone may be as long, be it read by the runtime thread or, with many, by another.
  for (const uint32_t count : {100u, 600u}) {
    for (const bool more : {false, true}) {
      std::optional<Raw> raw(path());
      v1::SessionRequest request;
      for (uint64_t id = 1; id <= count + (more ? 1 : 0); ++id) {
        v1::Dispatch& dispatch = *request.add_dispatches();
        dispatch.set_invocation_id(id);
        dispatch.set_operation_name(kEcho);
        if (id == 1) dispatch.set_batch_size(count);
        if (id == count) dispatch.set_reply_wanted(true);
      }
      ASSERT_GT(request.ByteSizeLong(), 4096u);
      raw->ring.Say(request);
      if (more) {
        ExpectViolation(*raw, "holds one");
      } else {
        EXPECT_EQ(raw->ring.Outcome(count), absl::OkStatus());
      }
      raw.reset();
      ExpectOnly(honest);
    }
  }
}

TEST_F(HostileRingTest, BytesThatAreNoRequest) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  for (const size_t size : {size_t{3}, size_t{100} << 10}) {
    Raw raw(path());
    raw.ring.Say(std::string(size, '\xFF'));
    ExpectViolation(raw, "");
    ExpectOnly(honest);
  }
  Raw raw(path());
  v1::SessionRequest hello;
  hello.mutable_hello()->mutable_versions()->set_min(1);
  raw.ring.Say(hello);
  ExpectViolation(raw, "a second hello");
  ExpectOnly(honest);
}

TEST_F(HostileRingTest, AMessageByTheStreamAfterTheRingBegan) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  Raw raw(path());
  v1::SessionRequest message;
  raw.ring.Add(message, kRecord, Record(1, 1));
  EXPECT_TRUE(raw.session.Write(message));
  ExpectViolation(raw, "by the stream after a ring was attached");
  EXPECT_TRUE(operations_->record().empty());
  ExpectOnly(honest);
}

TEST_F(HostileRingTest, AMessageThatNeverFinishesHoldsUpNobody) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  auto raw = std::make_unique<Raw>(path());
  // Of 48 MiB one comes.
  const std::string endless(size_t{1} << 20, 'x');
  raw->ring.SayRaw(std::string_view("\x00\x00\x00\x03", 4));
  for (size_t said = 0; said < endless.size(); said += 4096) {
    EXPECT_TRUE(Await([&] {
      const RingCounters& requests = raw->ring.header().requests;
      return requests.tail.load() - requests.head.load() + 4096 <= raw->ring.request_bytes();
    }));
    raw->ring.SayRaw(std::string_view(endless).substr(said, 4096));
    if (said % (64 * 4096) == 0) {
      EXPECT_EQ(Echo(honest), absl::OkStatus());
    }
  }
  EXPECT_FALSE(raw->ring.HasEnded());
  raw.reset();
  ExpectOnly(honest);
}

// ---- much of it ----

TEST_F(HostileRingTest, ABellThatRingsWithoutEndForNothing) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  Raw raw(path());
  std::atomic<bool> ended{false};
  std::thread ringer([&] {
    while (!ended) raw.ring.RingBell();
  });
  int echoes = 0;
  EXPECT_TRUE(Await([&] {
    EXPECT_EQ(Echo(honest), absl::OkStatus());
    ++echoes;
    return raw.ring.HasEnded();
  }));
  EXPECT_GE(echoes, 1);
  ended = true;
  ringer.join();
  ExpectViolation(raw, "it rings again and again");
  ExpectOnly(honest);
}

TEST_F(HostileRingTest, ATailThatFlickersForNothing) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  Raw raw(path());
  std::atomic<bool> ended{false};
  std::thread flickerer([&] {
    std::atomic<uint64_t>& tail = raw.ring.header().requests.tail;
    const uint64_t read = tail.load();
    while (!ended) {
      tail.store(read + 1);
      raw.ring.RingBell();
      tail.store(read);
    }
  });
  EXPECT_TRUE(Await([&] {
    EXPECT_EQ(Echo(honest), absl::OkStatus());
    return raw.ring.HasEnded();
  }));
  ended = true;
  flickerer.join();
  // It was seen in time, and has gone back then, or it was not.
  ExpectViolation(raw, "");
  ExpectOnly(honest);
}

TEST_F(HostileRingTest, EndsOfWhatWasGivenUpAreNotHeldAgainstTheWorker) {
  constexpr uint64_t kMany = 1500;  // more than may be said for nothing
  Start();
  const RuntimeContext honest = ConnectByRing();
  Raw raw(path());
  for (uint64_t i = 0; i < kMany; ++i) raw.ring.Dispatch(kDefer, test::v1::DeferRequest());
  EXPECT_TRUE(Await([&] { return RawCounts().running == kMany; }));
  v1::SessionRequest cancels;
  for (uint64_t id = 1; id <= kMany; ++id) {
    v1::Cancel& cancel = *cancels.add_cancels();
    cancel.set_invocation_id(id);
    cancel.set_give_up(true);
    if (cancels.cancels_size() < 500) continue;
    raw.ring.Say(cancels);
    cancels.Clear();
  }
  for (uint64_t id = 1; id <= kMany; ++id) {
    ASSERT_EQ(ReasonOf(raw.ring.Outcome(id)), v1::ERROR_REASON_STILL_RUNNING);
  }
  // One at a time, and nothing else is said meanwhile.
  for (uint64_t i = 0; i < kMany; ++i) {
    operations_->TakeDeferred().Finish(test::v1::DeferReply());
    ASSERT_EQ(Echo(honest), absl::OkStatus());
    ASSERT_FALSE(raw.ring.HasEnded()) << "after " << i << " ends";
  }
  EXPECT_EQ(raw.ring.Outcome(raw.ring.Echo(10)), absl::OkStatus());
  raw.ring.Close();
  EXPECT_EQ(ReasonOf(raw.session.End()), v1::ERROR_REASON_SESSION_ENDED);
  ExpectOnly(honest);
}

TEST_F(HostileRingTest, AWorkerThatReadsNothingIsNotReadFrom) {
  constexpr size_t kEach = size_t{60} << 10;
  constexpr uint64_t kMany = 3 * kMaxUnsent / kEach;
  Start({.ring_bytes = int64_t{64} << 10});
  const RuntimeContext honest = ConnectByRing();
  Raw raw(path());
  v1::SessionRequest message;
  test::v1::EchoRequest echo;
  echo.set_text(std::string(kEach, 'e'));
  raw.ring.Add(message, kEcho, echo, true);
  auto begin_next = [&, next = uint64_t{0}]() mutable {
    message.mutable_dispatches(0)->set_invocation_id(++next);
    raw.ring.Begin(message.SerializeAsString());
    return next;
  };
  uint64_t begun = begin_next();
  const auto flush = [&] {
    raw.ring.Flush();
    if (raw.ring.end().writer().left() == 0 && begun < kMany) begun = begin_next();
  };
  EXPECT_TRUE(Await([&] {
    flush();
    return RawCounts().finished * kEach >= kMaxUnsent;
  }));
  // In as many turns as all of it would take.
  for (uint64_t i = 0; i < kMany; ++i) {
    flush();
    ASSERT_EQ(Echo(honest), absl::OkStatus());
  }
  EXPECT_LT(raw.ring.header().requests.head.load(), 2 * kMaxUnsent);
  EXPECT_LT(begun, kMany);
  EXPECT_FALSE(raw.ring.HasEnded());
  // It reads again.
  while (raw.ring.ended() < kMany) {
    flush();
    const size_t before = raw.ring.ended();
    // What is not written yet is not waited for.
    if (before < begun - 1 || begun == kMany) {
      ASSERT_TRUE(raw.ring.Hear());
    }
  }
  for (uint64_t i = 0; i < kMany; ++i) ASSERT_EQ(raw.ring.order()[i], i + 1);
  raw.session.HalfClose();
  EXPECT_EQ(raw.session.End(), absl::OkStatus());
  ExpectOnly(honest);
}

// ---- the side channel ----

TEST_F(HostileRingTest, AWorkerThatReadsNoNotificationsHoldsNoDrainUp) {
  Start();
  Raw raw(path());
  v1::SessionRequest subscribe;
  subscribe.add_subscribes()->set_subscription_id(1);
  subscribe.mutable_subscribes(0)->set_topic_name(kEvery);
  raw.ring.Say(subscribe);
  EXPECT_TRUE(
      Await([&] { return runtime_->GetSnapshot().topics[0]->statistics().subscriptions == 1; }));
  test::v1::Item item;
  item.set_text(std::string(4000, 'x'));
  // More than the ring holds.
  for (int i = 0; i < 250; ++i) ASSERT_TRUE(runtime_->context().Publish(kEvery, item).ok());
  EXPECT_TRUE(host_->Drain(absl::InfiniteDuration()).drained);
  EXPECT_FALSE(raw.session.End().ok());
}

TEST_F(HostileRingTest, DescriptorsByTheSideChannelOfARing) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  Raw raw(path());
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const uint64_t refused = runtime_->core()->buffers().refused();
  EXPECT_TRUE(SendWithFds(raw.ring.fd(), "x", {writer.get(), writer.get()}).ok());
  EXPECT_EQ(ReasonOf(raw.session.End()), v1::ERROR_REASON_SESSION_ENDED);
  EXPECT_TRUE(raw.ring.AwaitEnd());
  EXPECT_EQ(runtime_->core()->buffers().refused(), refused + 2);
  writer.Reset();
  char byte;
  EXPECT_EQ(read(reader.get(), &byte, 1), 0);  // once the last of them is closed
  ExpectOnly(honest);
}

TEST_F(HostileRingTest, TheSideChannelIsClosedWhileOperationsRunAndAreQueued) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  Raw raw(path());
  test::v1::MakeRequest thing;
  thing.set_name("thing");
  EXPECT_EQ(raw.ring.Outcome(raw.ring.Dispatch(kMake, thing)), absl::OkStatus());
  raw.ring.Dispatch(kHold, test::v1::HoldRequest());
  operations_->AwaitHeld();
  for (uint64_t i = 0; i < 100; ++i) raw.ring.Dispatch(kRecord, Record(1, i));
  EXPECT_TRUE(Await([&] { return RawCounts().queued == 100; }));
  raw.ring.Close();
  // While the runtime thread is held.
  EXPECT_EQ(ReasonOf(raw.session.End()), v1::ERROR_REASON_SESSION_ENDED);
  EXPECT_TRUE(Await([&] { return runtime_->GetSnapshot().ledger.abandoned == 100; }));
  operations_->LetGo();
  operations_->AwaitDestroyed(1);
  EXPECT_THAT(operations_->destroyed(), ::testing::ElementsAre("thing"));
  ExpectOnly(honest);
  EXPECT_TRUE(operations_->record().empty());
}

// ---- attaching ----

TEST_F(HostileRingTest, ARingIsAttachedOnce) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  {
    Raw raw(path());
    RawRing second(path());
    EXPECT_EQ(second.AttachSession(raw.session.id(), raw.session.token()), absl::OkStatus());
    EXPECT_EQ(second.AttachRing(), absl::OkStatus());
    // Until it is confirmed it is nothing to the session.
    EXPECT_EQ(raw.ring.Outcome(raw.ring.Echo(10)), absl::OkStatus());
    EXPECT_TRUE(second.Knock());
    ExpectViolation(raw, "a ring is attached once");
    EXPECT_FALSE(second.AwaitByte());
    ExpectOnly(honest);
  }
  Raw raw(path());
  {
    RawRing second(path());
    EXPECT_EQ(second.AttachSession(raw.session.id(), raw.session.token()), absl::OkStatus());
    EXPECT_EQ(second.AttachRing(), absl::OkStatus());
  }
  EXPECT_EQ(raw.ring.Outcome(raw.ring.Echo(10)), absl::OkStatus());
  raw.session.Cut();
  EXPECT_TRUE(raw.ring.AwaitEnd());
  ExpectOnly(honest);
}

TEST_F(HostileRingTest, ARingIsAttachedBeforeAnythingIsDispatched) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  RawSession session(path());
  RawRing ring(path());
  v1::SessionRequest message;
  ring.Add(message, kRecord, Record(1, 1));
  EXPECT_TRUE(session.Write(message));
  v1::SessionResponse response;
  EXPECT_TRUE(session.Read(response));
  EXPECT_EQ(ring.AttachSession(session.id(), session.token()), absl::OkStatus());
  EXPECT_EQ(ring.AttachRing(), absl::OkStatus());
  EXPECT_TRUE(ring.Knock());
  const absl::Status end = session.End();
  EXPECT_EQ(ReasonOf(end), v1::ERROR_REASON_PROTOCOL_VIOLATION) << end;
  EXPECT_THAT(std::string(end.message()), HasSubstr("before anything is dispatched"));
  EXPECT_FALSE(ring.AwaitByte());
  ExpectOnly(honest);
}

TEST_F(HostileRingTest, OnlyASessionsOwnSideChannelGetsARing) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  {
    RawSession session(path()), other(path());
    RawRing none(path()), wrong(path()), right(path());
    EXPECT_TRUE(absl::IsFailedPrecondition(none.AttachRing()));
    EXPECT_EQ(ReasonOf(wrong.AttachSession(session.id(), other.token())),
              v1::ERROR_REASON_UNKNOWN_SESSION);
    EXPECT_FALSE(wrong.AwaitByte());
    right.Attach(session);
    EXPECT_EQ(right.Outcome(right.Echo(10)), absl::OkStatus());
    // Who has not offered one.
    RawSession stream(path(), false);
    EXPECT_EQ(stream.welcome().transport(), v1::TRANSPORT_STREAM);
    RawRing unasked(path());
    EXPECT_EQ(unasked.AttachSession(stream.id(), stream.token()), absl::OkStatus());
    EXPECT_TRUE(absl::IsUnimplemented(unasked.AttachRing()));
    v1::SessionRequest message;
    unasked.Add(message, kRecord, Record(1, 1));
    EXPECT_TRUE(stream.Write(message));
    v1::SessionResponse response;
    EXPECT_TRUE(stream.Read(response));
    EXPECT_EQ(response.succeeded().watermark(), 1u);
  }
  ExpectOnly(honest);
}

TEST_F(HostileRingTest, AConfirmationAfterTheSessionHasEnded) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  RawSession session(path());
  RawRing ring(path());
  EXPECT_EQ(ring.AttachSession(session.id(), session.token()), absl::OkStatus());
  EXPECT_EQ(ring.AttachRing(), absl::OkStatus());
  session.HalfClose();
  EXPECT_EQ(session.End(), absl::OkStatus());
  EXPECT_TRUE(Await([&] { return runtime_->GetSnapshot().sessions.size() == 1; }));
  ring.Say(v1::SessionRequest());
  EXPECT_TRUE(ring.Knock());
  // It is not served, and need not wait to find out.
  EXPECT_FALSE(ring.AwaitByte());
  ExpectOnly(honest);
}

// ---- the end ----

TEST_F(HostileRingTest, AllThatWasWrittenBeforeTheHalfCloseRuns) {
  constexpr uint64_t kMany = 1000;
  Start();
  const RuntimeContext honest = ConnectByRing();
  Raw raw(path());
  EXPECT_TRUE(Await([&] { return raw.ring.daemon_sleeps(); }));
  const Invocation held = honest.DispatchAsync(kHold, test::v1::HoldRequest());
  operations_->AwaitHeld();
  // Nobody rings. What is refused has its outcome at once, so that all is settled, again and again,
  // before the end.
  std::string bytes;
  for (uint64_t i = 0; i < kMany; ++i) {
    v1::SessionRequest message;
    raw.ring.Add(message, "no.such/Operation", test::v1::EchoRequest());
    bytes += Framed(message.SerializeAsString());
  }
  for (uint64_t i = 0; i < kMany; ++i) {
    v1::SessionRequest message;
    raw.ring.Add(message, kRecord, Record(1, i));
    bytes += Framed(message.SerializeAsString());
  }
  ASSERT_LT(bytes.size(), raw.ring.request_bytes());
  auto* const ring = reinterpret_cast<char*>(&raw.ring.header()) + internal::kBufferPage;
  std::copy(bytes.begin(), bytes.end(), ring);
  raw.ring.header().requests.tail.store(bytes.size());
  raw.session.HalfClose();
  operations_->LetGo();
  for (uint64_t id = 1; id <= kMany; ++id) {
    ASSERT_EQ(ReasonOf(raw.ring.Outcome(id)), v1::ERROR_REASON_UNKNOWN_OPERATION) << id;
  }
  for (uint64_t id = kMany + 1; id <= 2 * kMany; ++id) {
    ASSERT_EQ(raw.ring.Outcome(id), absl::OkStatus()) << id;
  }
  EXPECT_EQ(raw.session.End(), absl::OkStatus());
  EXPECT_EQ(operations_->record().size(), kMany);
  EXPECT_EQ(held.Await(kPatience), absl::OkStatus());
  ExpectOnly(honest);
}

constexpr char kVictimSocket[] = "RUNLOOP_TEST_VICTIM_SOCKET";
constexpr size_t kVictimEach = size_t{60} << 10;

// The program that the next test starts and kills.
TEST(RingVictim, DISABLED_FillsItsRingUntilItIsKilled) {
  const std::string path = std::getenv(kVictimSocket);
  RawSession session(path);
  RawRing ring(path);
  ring.Attach(session);
  ring.Dispatch(kMake, test::v1::MakeRequest());
  while (true) ring.Echo(kVictimEach);
}

TEST_F(HostileRingTest, AWorkerThatIsKilledWithAFullRing) {
  Start();
  const RuntimeContext honest = ConnectByRing();
  setenv(kVictimSocket, path().c_str(), 1);
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "rings_test", "--gtest_filter=RingVictim.*",
          "--gtest_also_run_disabled_tests", nullptr);
    _exit(1);
  }
  // From then on its ring stays full.
  EXPECT_TRUE(Await([&] { return RawCounts().finished * kVictimEach >= kMaxUnsent; }));
  EXPECT_EQ(Echo(honest), absl::OkStatus());
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  ExpectOnly(honest);
  operations_->AwaitDestroyed(1);
}

}  // namespace
}  // namespace runloop

// Long messages, which other threads than the runtime's take in and write; with a server of rings
// that has no streams.

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "runloop/daemon/completion_thread.h"
#include "runloop/daemon/ring_server.h"
#include "runloop/daemon/session_protocol.h"
#include "runloop/tests/rings/fixture.h"

namespace runloop {
namespace {

class LongMessagesTest : public testing::Test {
 protected:
  static constexpr size_t kMost = size_t{1} << 20;

  class Owner final : public daemon::RingOwner {
   public:
    void OnRing(std::shared_ptr<daemon::SessionRing>) override {}
    void OnRingEnd(absl::Status why) override {
      absl::MutexLock lock(&mutex_);
      why_ = std::move(why);
    }
    std::optional<absl::Status> why() const {
      absl::MutexLock lock(&mutex_);
      return why_;
    }

   private:
    mutable absl::Mutex mutex_;
    std::optional<absl::Status> why_ ABSL_GUARDED_BY(mutex_);
  };

  // A session by a ring, without a stream.
  struct Worker {
    Worker(LongMessagesTest& test, const std::string& role)
        : owner(std::make_shared<Owner>()),
          session(test.runtime_->core()->OpenSession(
              {.peer = {.pid = 100, .uid = 1000, .role = role}, .transport = "stream"})),
          server(test.rings_) {
      int ends[2];
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
      channel.Reset(ends[1]);
      auto attached = *server->Attach(session, owner, std::make_shared<const UniqueFd>(ends[0]));
      memory.emplace(*RingMemory::Map(std::move(attached.memory), attached.request_bytes,
                                      attached.response_bytes));
      end.emplace(memory->NewEnd(RingEnd::Side::kWorker, kMost));
      bell.Reset(dup(attached.bell));
      ring = std::move(attached.ring);
      server->Start(ring,
                    std::make_unique<daemon::SessionProtocol>(server->terms(), session, false));
    }
    ~Worker() { server->Close(*ring)->End(); }

    // Writes some of a message, until the daemon has taken it out of the ring or ended it.
    void Say(std::string_view bytes) {
      uint64_t& tail = said;
      auto* const to = reinterpret_cast<char*>(&memory->header()) + internal::kBufferPage;
      RingCounters& requests = memory->header().requests;
      for (const char byte : bytes) {
        if (tail - requests.head.load() == memory->request_bytes() && !Taken()) return;
        to[tail & (memory->request_bytes() - 1)] = byte;
        ++tail;
        if (tail % 1024 == 0) requests.tail.store(tail);
      }
      requests.tail.store(tail);
      (void)eventfd_write(bell.get(), 1);
      (void)Taken();
    }
    bool Taken() {
      (void)eventfd_write(bell.get(), 1);
      RingCounters& requests = memory->header().requests;
      EXPECT_TRUE(Await([&] {
        return requests.head.load() == requests.tail.load() || owner->why().has_value();
      }));
      return !owner->why().has_value();
    }
    // The ids of the next invocations that have ended with an outcome of their own.
    std::vector<uint64_t> Outcomes(size_t count) {
      std::vector<uint64_t> ids;
      EXPECT_TRUE(Await([&] {
        const absl::StatusOr<std::optional<std::string_view>> message = end->reader().Next();
        EXPECT_TRUE(message.ok()) << message.status();
        if (end->TakeReadBell()) (void)eventfd_write(bell.get(), 1);
        if (!message.ok()) return true;
        v1::SessionResponse response;
        if (message->has_value()) {
          EXPECT_TRUE(response.ParseFromString(std::string(**message)));
        }
        for (const v1::Outcome& outcome : response.outcomes()) {
          ids.push_back(outcome.invocation_id());
        }
        return ids.size() >= count;
      }));
      return ids;
    }
    // Has been told of the end of its one invocation.
    bool Told() {
      return Await([&] { return end->reader().has_bytes(); });
    }

    std::shared_ptr<Owner> owner;
    std::shared_ptr<Session> session;
    std::shared_ptr<daemon::RingServer> server;
    std::shared_ptr<daemon::SessionRing> ring;
    std::optional<RingMemory> memory;
    std::optional<RingEnd> end;
    UniqueFd channel, bell;
    uint64_t said = 0;
  };

  LongMessagesTest() {
    OperationRegistry registry;
    operations_ = TestOperations::Register(registry);
    runtime_ =
        *Runtime::Create({.operations = std::move(registry), .thread = RuntimeThread::kSpawn});
    grpc::ServerBuilder builder;
    completion_->AddTo(builder);
    grpc_ = builder.BuildAndStart();
    completion_->Start();
    rings_ = *daemon::RingServer::Create({.terms = {.core = runtime_->core(),
                                                    .operations = runtime_->operations().List(),
                                                    .max_message_bytes = kMost,
                                                    .max_unfinished = 1000},
                                          .ring_bytes = size_t{64} << 10,
                                          .completion = completion_,
                                          .max_arriving_bytes = kMost,
                                          .max_role_arriving_bytes = kMost / 2});
    EXPECT_EQ(runtime_->core()->AddIntake(rings_), absl::OkStatus());
  }
  ~LongMessagesTest() override {
    runtime_->core()->RemoveIntake(*rings_);
    if (grpc_ != nullptr) grpc_->Shutdown();
    completion_->Stop();
    rings_.reset();
    runtime_.reset();
  }

  // One dispatch of so many bytes.
  static std::string Message(size_t size) {
    test::v1::EchoRequest echo;
    echo.set_text(std::string(size, 'e'));
    v1::SessionRequest message;
    v1::Dispatch& dispatch = *message.add_dispatches();
    dispatch.set_invocation_id(1);
    dispatch.set_operation_name(kEcho);
    *dispatch.mutable_request() = echo.SerializeAsString();
    return Framed(message.SerializeAsString());
  }

  std::shared_ptr<TestOperations> operations_;
  std::unique_ptr<Runtime> runtime_;
  std::shared_ptr<daemon::CompletionThread> completion_ =
      std::make_shared<daemon::CompletionThread>();
  std::unique_ptr<grpc::Server> grpc_;
  std::shared_ptr<daemon::RingServer> rings_;
};

TEST_F(LongMessagesTest, TheLargestIsEndedWhenTheirBytesPassTheBound) {
  Worker large(*this, ""), middle(*this, ""), small(*this, ""), role(*this, "camera");
  const std::string message = Message(700'000);
  large.Say(std::string_view(message).substr(0, 600'000));
  middle.Say(std::string_view(message).substr(0, 300'000));
  role.Say(std::string_view(message).substr(0, 400'000));  // counts by itself
  for (Worker* each : {&large, &middle, &role}) EXPECT_FALSE(each->owner->why().has_value());
  small.Say(std::string_view(message).substr(0, 200'000));
  ASSERT_TRUE(Await([&] { return large.owner->why().has_value(); }));
  EXPECT_EQ(ReasonOf(*large.owner->why()), v1::ERROR_REASON_MESSAGE_TOO_LARGE);
  // The others have all the room that it had.
  small.Say(std::string_view(message).substr(200'000));
  EXPECT_TRUE(small.Told());
  middle.Say(std::string_view(message).substr(300'000));
  EXPECT_TRUE(middle.Told());
  for (Worker* each : {&middle, &small, &role}) EXPECT_FALSE(each->owner->why().has_value());
  role.Say(std::string_view(message).substr(400'000));
  ASSERT_TRUE(Await([&] { return role.owner->why().has_value(); }));
  EXPECT_EQ(ReasonOf(*role.owner->why()), v1::ERROR_REASON_MESSAGE_TOO_LARGE);
}

// What keeps the other thread, which is to write it, keeps no shorter reply, and not the runtime
// thread.
TEST_F(LongMessagesTest, ALongReplyIsWrittenByAnotherThreadInItsOrder) {
  Worker worker(*this, ""), other(*this, "");
  v1::SessionRequest message;
  for (uint64_t id = 1; id <= 3; ++id) {
    v1::Dispatch& dispatch = *message.add_dispatches();
    dispatch.set_invocation_id(id);
    dispatch.set_operation_name(kDefer);
    dispatch.set_reply_wanted(true);
  }
  absl::Mutex mutex;
  bool held = false, let_go = false;
  completion_->Post([&] {
    absl::MutexLock lock(&mutex);
    held = true;
    mutex.Await(absl::Condition(&let_go));
  });
  {
    absl::MutexLock lock(&mutex);
    mutex.Await(absl::Condition(&held));
  }
  worker.Say(Framed(message.SerializeAsString()));
  test::v1::DeferReply short_reply, long_reply;
  long_reply.set_text(std::string(500'000, 'r'));
  operations_->TakeDeferred().Finish(short_reply);
  EXPECT_EQ(worker.Outcomes(1), std::vector<uint64_t>{1});
  operations_->TakeDeferred().Finish(long_reply);
  operations_->TakeDeferred().Finish(short_reply);
  for (uint64_t id = 1; id <= 100; ++id) {
    v1::SessionRequest echo;
    v1::Dispatch& dispatch = *echo.add_dispatches();
    dispatch.set_invocation_id(id);
    dispatch.set_operation_name(kEcho);
    dispatch.set_reply_wanted(true);
    other.Say(Framed(echo.SerializeAsString()));
    ASSERT_EQ(other.Outcomes(1), std::vector<uint64_t>{id});
  }
  EXPECT_FALSE(worker.end->reader().has_bytes());
  {
    absl::MutexLock lock(&mutex);
    let_go = true;
  }
  EXPECT_EQ(worker.Outcomes(2), (std::vector<uint64_t>{2, 3}));
}

}  // namespace
}  // namespace runloop

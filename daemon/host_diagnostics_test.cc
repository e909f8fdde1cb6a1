// What a host tells of itself and its runtime thread: status, health, reflection; and to whom.

#include <gmock/gmock.h>
#include <sys/socket.h>

#include "grpc/health/v1/health.grpc.pb.h"
#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "runloop/daemon/host.h"
#include "runloop/daemon/testing/host_fixture.h"
#include "runloop/ipc/side_channel_frame.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/v1/control.grpc.pb.h"
#include "runloop/v1/side_channel.pb.h"

namespace runloop::daemon {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

class HostDiagnosticsTest : public HostFixture {};

TEST_F(HostDiagnosticsTest, DiagnosticsAnswerWhileTheRuntimeThreadIsHeld) {
  Start();
  const auto channel = Connect();
  std::thread holder([&] {
    grpc::ClientContext context;
    test::v1::HoldReply reply;
    EXPECT_TRUE(test::v1::TestOperations::NewStub(channel)->Hold(&context, {}, &reply).ok());
  });
  operations_->AwaitHeld();
  const auto stub = v1::Diagnostics::NewStub(channel);
  grpc::ClientContext context;
  v1::GetStatusResponse status;
  ASSERT_TRUE(stub->GetStatus(&context, {}, &status).ok());
  EXPECT_EQ(status.thread().current_operation(), kHold);
  EXPECT_EQ(status.ledger().running(), 1u);
  EXPECT_EQ(status.connections(), 1u);
  EXPECT_EQ(status.sessions(0).peer_pid(), getpid());
  EXPECT_GT(status.open_files(), 0u);
  EXPECT_GT(status.threads(), 1u);
  operations_->LetGo();
  holder.join();
  grpc::ClientContext list;
  v1::ListOperationsResponse operations;
  ASSERT_TRUE(stub->ListOperations(&list, {}, &operations).ok());
  EXPECT_EQ(static_cast<size_t>(operations.operations_size()),
            runtime_->operations().List().size());
}

TEST_F(HostDiagnosticsTest, ARoleMayCallOperationsAndNeitherLookNorSteer) {
  Start();
  const UniqueFd channel = *ConnectUnix(Address{.path = directory_ + "/s"});
  {
    const UniqueFd listening = *ListenUnix(Address{.path = directory_ + "/role"});
    v1::SideChannelRequest request;
    request.mutable_add_role_socket()->set_role("camera");
    ASSERT_TRUE(SendWithFds(channel.get(), kSideChannelMagic, {}).ok());
    ASSERT_TRUE(
        SendWithFds(channel.get(), *EncodeSideChannelFrame(request), {listening.get()}).ok());
    char response[64];
    ASSERT_GT(recv(channel.get(), response, sizeof(response), 0), 0);
  }
  const auto worker = Connect("role");
  grpc::ClientContext call;
  test::v1::EchoReply reply;
  EXPECT_TRUE(test::v1::TestOperations::NewStub(worker)->Echo(&call, {}, &reply).ok());
  grpc::ClientContext look;
  v1::GetStatusResponse status;
  const grpc::Status refused = v1::Diagnostics::NewStub(worker)->GetStatus(&look, {}, &status);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_NOT_ALLOWED);
  grpc::ClientContext steer;
  v1::DrainResponse drain;
  const grpc::Status drained = v1::Control::NewStub(worker)->Drain(&steer, {}, &drain);
  EXPECT_EQ(drained.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(ReasonOf(drained), v1::ERROR_REASON_NOT_ALLOWED);
  const auto snapshot = runtime_->GetSnapshot();
  ASSERT_EQ(snapshot.sessions.size(), 1u);
  EXPECT_EQ(snapshot.sessions[0]->info().peer.role, "camera");
}

template <typename Stub, typename Request, typename Response>
std::vector<std::string> ListServices(std::shared_ptr<grpc::Channel> channel) {
  grpc::ClientContext context;
  auto stream = Stub::NewStub(std::move(channel))->ServerReflectionInfo(&context);
  Request request;
  request.set_list_services("");
  EXPECT_TRUE(stream->Write(request));
  Response response;
  EXPECT_TRUE(stream->Read(&response));
  std::vector<std::string> names;
  for (const auto& service : response.list_services_response().service()) {
    names.push_back(service.name());
    Request describe;
    describe.set_file_containing_symbol(service.name());
    EXPECT_TRUE(stream->Write(describe));
    Response described;
    EXPECT_TRUE(stream->Read(&described));
    EXPECT_GE(described.file_descriptor_response().file_descriptor_proto_size(), 1)
        << service.name();
  }
  request.set_file_containing_symbol("no.such.Thing");
  EXPECT_TRUE(stream->Write(request));
  EXPECT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.error_response().error_code(), grpc::StatusCode::NOT_FOUND);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
  return names;
}

TEST_F(HostDiagnosticsTest, ReflectionListsAndDescribesEveryService) {
  Start();
  namespace v1r = grpc::reflection::v1;
  namespace v1a = grpc::reflection::v1alpha;
  const auto names = ListServices<v1r::ServerReflection, v1r::ServerReflectionRequest,
                                  v1r::ServerReflectionResponse>(Connect());
  EXPECT_THAT(names, testing::IsSupersetOf({"runloop.test.v1.TestOperations",
                                            "runloop.v1.Dispatcher", "runloop.v1.Control",
                                            "runloop.v1.Diagnostics", "grpc.health.v1.Health",
                                            "grpc.reflection.v1.ServerReflection"}));
  const auto alpha = ListServices<v1a::ServerReflection, v1a::ServerReflectionRequest,
                                  v1a::ServerReflectionResponse>(Connect());
  EXPECT_EQ(alpha, names);
}

TEST_F(HostDiagnosticsTest, HealthKnowsTheDaemonTheThreadAndTheServices) {
  Start();
  const auto stub = grpc::health::v1::Health::NewStub(Connect());
  const auto check = [&](const std::string& service) {
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_service(service);
    HealthCheckResponse response;
    const grpc::Status status = stub->Check(&context, request, &response);
    return status.ok() ? response.status() : HealthCheckResponse::SERVICE_UNKNOWN;
  };
  Await([](const auto& snapshot) { return snapshot.state == Runtime::Snapshot::State::kIdle; });
  for (const char* name :
       {"", "runloop.v1.Dispatcher", "runloop.RuntimeThread", "runloop.test.v1.TestOperations"}) {
    EXPECT_EQ(check(name), HealthCheckResponse::SERVING) << name;
  }
  EXPECT_EQ(check("runloop.v1.Nothing"), HealthCheckResponse::SERVICE_UNKNOWN);
}

TEST_F(HostDiagnosticsTest, TheThreadIsHealthyOnceItsLoopHasRunAndNotBefore) {
  const LogSink quiet = [](LogSeverity, std::string_view) {};
  runtime_ = *Runtime::Create({.log = quiet});
  host_ = *Host::Start(*runtime_, {.listen = directory_ + "/s", .log = quiet});
  const auto stub = grpc::health::v1::Health::NewStub(Connect());
  const auto check = [&] {
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_service("runloop.RuntimeThread");
    HealthCheckResponse response;
    EXPECT_TRUE(stub->Check(&context, request, &response).ok());
    return response.status();
  };
  EXPECT_EQ(check(), HealthCheckResponse::NOT_SERVING);
  // Nobody gives it work: the host does, so that it is known to run.
  std::thread watcher([&] {
    while (check() != HealthCheckResponse::SERVING) std::this_thread::yield();
    runtime_->Stop();
  });
  EXPECT_TRUE(runtime_->Run().ok());
  watcher.join();
}

// Counts how often it is looked at.
class CountingClock final : public Clock {
 public:
  absl::Time Now() const override {
    looks_.fetch_add(1);
    return Clock::Monotonic()->Now();
  }
  void WaitUntil(absl::Mutex* mutex, absl::CondVar* changed, absl::Time deadline) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Clock::Monotonic()->WaitUntil(mutex, changed, deadline);
  }
  int looks() const { return looks_.load(); }

 private:
  mutable std::atomic<int> looks_{0};
};

TEST_F(HostDiagnosticsTest, ManyHealthWatchesTakeOneLook) {
  static CountingClock clock;  // outlives the runtime
  const LogSink quiet = [](LogSeverity, std::string_view) {};
  runtime_ = *Runtime::Create({.thread = RuntimeThread::kSpawn, .clock = &clock, .log = quiet});
  host_ = *Host::Start(*runtime_, {.listen = directory_ + "/s", .log = quiet});
  const auto stub = grpc::health::v1::Health::NewStub(Connect());
  constexpr int kWatches = 100;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<HealthCheckResponse>>> streams;
  HealthCheckResponse response;
  for (int i = 0; i < kWatches; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    streams.push_back(stub->Watch(contexts.back().get(), {}));
    ASSERT_TRUE(streams.back()->Read(&response));
  }
  const int before = clock.looks();
  runtime_->BeginDrain();
  for (const auto& stream : streams) ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_LT(clock.looks() - before, kWatches / 2);
  host_.reset();
  runtime_.reset();
}

TEST_F(HostDiagnosticsTest, AHealthRequestThatIsLongForANameIsRefused) {
  Start();
  const auto stub = grpc::health::v1::Health::NewStub(Connect());
  HealthCheckRequest request;
  request.set_service(std::string(2000, 'x'));
  grpc::ClientContext check, watch;
  HealthCheckResponse response;
  EXPECT_EQ(stub->Check(&check, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  const auto stream = stub->Watch(&watch, request);
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(HostDiagnosticsTest, AHealthWatchSeesTheDrainAndEnds) {
  Start();
  const auto stub = grpc::health::v1::Health::NewStub(Connect());
  grpc::ClientContext context;
  auto stream = stub->Watch(&context, {});
  HealthCheckResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  runtime_->BeginDrain();
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  host_.reset();
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}
}  // namespace
}  // namespace runloop::daemon

#ifndef RUNLOOP_TESTS_RINGS_FIXTURE_H_
#define RUNLOOP_TESTS_RINGS_FIXTURE_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "runloop/client/connect.h"
#include "runloop/daemon/host.h"
#include "runloop/ipc/ring.h"
#include "runloop/ipc/side_channel_frame.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/test_operations.h"
#include "runloop/tests/testing/test_topics.h"
#include "runloop/v1/dispatcher.grpc.pb.h"
#include "runloop/v1/side_channel.pb.h"

namespace runloop {

// How long anything may take: a test that waits for longer has failed.
inline constexpr absl::Duration kPatience = absl::Seconds(60);

// Blocks until `there`; false: it has not come.
inline bool Await(const std::function<bool()>& there) {
  const absl::Time deadline = Clock::Monotonic()->Now() + kPatience;
  while (!there()) {
    if (Clock::Monotonic()->Now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

// A message as it stands in a ring, with its length before it.
inline std::string Framed(std::string_view message) {
  std::string framed;
  for (int i = 0; i < 4; ++i) framed.push_back(static_cast<char>(message.size() >> (8 * i)));
  return framed.append(message);
}

// A session stream by hand.
class RawSession {
 public:
  explicit RawSession(const std::string& path, bool offers_ring = true) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = v1::Dispatcher::NewStub(
        grpc::CreateCustomChannel("unix:" + path, grpc::InsecureChannelCredentials(), arguments));
    context_.set_deadline(std::chrono::system_clock::now() + absl::ToChronoSeconds(kPatience));
    stream_ = stub_->Session(&context_);
    v1::SessionRequest request;
    request.mutable_hello()->mutable_versions()->set_min(1);
    request.mutable_hello()->mutable_versions()->set_max(1);
    request.mutable_hello()->set_client_name("raw");
    if (offers_ring) request.mutable_hello()->add_transports(v1::TRANSPORT_RING);
    EXPECT_TRUE(stream_->Write(request));
    v1::SessionResponse response;
    EXPECT_TRUE(stream_->Read(&response));
    welcome_ = response.welcome();
  }
  ~RawSession() { context_.TryCancel(); }

  const v1::Welcome& welcome() const { return welcome_; }
  const std::string& id() const { return welcome_.session_id(); }
  const std::string& token() const { return welcome_.side_channel_token(); }

  bool Write(const v1::SessionRequest& request) { return stream_->Write(request); }
  bool Read(v1::SessionResponse& response) { return stream_->Read(&response); }
  void HalfClose() { EXPECT_TRUE(stream_->WritesDone()); }
  void Cut() { context_.TryCancel(); }
  // Blocks until the daemon has ended it.
  absl::Status End() {
    v1::SessionResponse response;
    while (stream_->Read(&response)) {
    }
    return FromGrpcStatus(stream_->Finish());
  }

 private:
  std::unique_ptr<v1::Dispatcher::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>> stream_;
  v1::Welcome welcome_;
};

// The worker's end of a ring by hand, and its side channel. It knocks only if it is told to.
class RawRing {
 public:
  explicit RawRing(const std::string& path) : socket_(*ConnectUnix({.path = path})) {
    Send(kSideChannelMagic);
  }

  // ---- attaching ----
  absl::Status AttachSession(const std::string& id, const std::string& token) {
    v1::SideChannelRequest request;
    request.mutable_attach_session()->set_session_id(id);
    request.mutable_attach_session()->set_token(token);
    return FromProto(Ask(request).status());
  }
  // The session goes on without until Confirm.
  absl::Status AttachRing() {
    v1::SideChannelRequest request;
    request.mutable_attach_ring();
    const v1::SideChannelResponse response = Ask(request);
    absl::Status status = FromProto(response.status());
    if (!status.ok()) return status;
    EXPECT_EQ(fds_.size(), 2u);
    absl::StatusOr<RingMemory> memory = RingMemory::Map(
        std::move(fds_[0]), response.ring().request_bytes(), response.ring().response_bytes());
    if (!memory.ok()) return memory.status();
    bell_ = std::move(fds_[1]);
    memory_.emplace(*std::move(memory));
    end_.emplace(memory_->NewEnd(RingEnd::Side::kWorker, kMaxMessage));
    return absl::OkStatus();
  }
  bool Knock() { return Send(std::string_view("\0", 1)); }
  // A byte of the daemon's; false: it has closed the channel.
  bool AwaitByte() {
    char byte;
    return Poll(POLLIN) && recv(socket_.get(), &byte, 1, 0) == 1;
  }
  // All of it.
  void Attach(const RawSession& session) {
    EXPECT_EQ(AttachSession(session.id(), session.token()), absl::OkStatus());
    if (absl::Status ring = AttachRing(); !ring.ok()) throw std::runtime_error(ring.ToString());
    EXPECT_TRUE(Knock());
    EXPECT_TRUE(AwaitByte());
  }

  // ---- speaking ----
  RingHeader& header() { return memory_->header(); }
  size_t request_bytes() const { return memory_->request_bytes(); }
  RingEnd& end() { return *end_; }
  int fd() const { return socket_.get(); }

  void RingBell() { (void)eventfd_write(bell_.get(), 1); }
  bool daemon_sleeps() { return (header().daemon_wants.load() & kWantsBytes) != 0; }
  // Writes what finds room, and rings if that is wanted.
  void Begin(std::string_view message) {
    EXPECT_EQ(end_->writer().Write(absl::MakeConstSpan(&message, 1)), absl::OkStatus());
    if (end_->TakeWriteBell()) RingBell();
  }
  void Flush() {
    EXPECT_EQ(end_->writer().Flush(), absl::OkStatus());
    if (end_->TakeWriteBell()) RingBell();
  }
  // Writes all of it. What it waits for is room alone.
  void Say(std::string_view message) {
    Begin(message);
    EXPECT_TRUE(Await([&] {
      Flush();
      return end_->writer().left() == 0;
    }));
  }
  void Say(const v1::SessionRequest& request) { Say(request.SerializeAsString()); }
  // Bytes that are no message.
  void SayRaw(std::string_view bytes) {
    const uint64_t tail = header().requests.tail.load();
    auto* const ring = reinterpret_cast<char*>(&header()) + internal::kBufferPage;
    for (size_t i = 0; i < bytes.size(); ++i) ring[(tail + i) & (request_bytes() - 1)] = bytes[i];
    header().requests.tail.store(tail + bytes.size());
    RingBell();
  }

  // ---- listening ----
  // Takes the next response in; false: none has come, and the daemon has closed the channel.
  bool Hear() {
    const absl::Time deadline = Clock::Monotonic()->Now() + kPatience;
    while (Clock::Monotonic()->Now() < deadline) {
      // Before the look, so that nothing comes after it.
      const bool closed = closed_;
      const absl::StatusOr<std::optional<std::string_view>> message = end_->reader().Next();
      EXPECT_TRUE(message.ok()) << message.status();
      if (!message.ok()) return false;
      if (end_->TakeReadBell()) RingBell();
      if (message->has_value()) {
        OnResponse(**message);
        return true;
      }
      if (closed) return false;
      if (!end_->AnnounceSleep()) continue;
      if (!AwaitByte()) closed_ = true;
    }
    ADD_FAILURE() << "nothing was heard";
    return false;
  }
  // Blocks until `id` has an outcome, or all have up to it.
  absl::Status Outcome(uint64_t id) {
    while (!outcomes_.contains(id) && !succeeded_.contains(id)) {
      if (!Hear()) return absl::UnavailableError("closed");
    }
    if (succeeded_.contains(id)) return absl::OkStatus();
    const v1::Outcome& outcome = outcomes_[id];
    return outcome.has_reply() ? absl::OkStatus() : FromProto(outcome.status());
  }
  const std::string& ReplyOf(uint64_t id) { return outcomes_[id].reply(); }
  // Ids in the order in which their own outcomes came.
  const std::vector<uint64_t>& order() const { return order_; }
  size_t ended() const { return outcomes_.size() + succeeded_.size(); }

  // ---- requests ----
  template <typename Request>
  v1::Dispatch& Add(v1::SessionRequest& message, const std::string& operation,
                    const Request& request, bool reply_wanted = false) {
    v1::Dispatch& dispatch = *message.add_dispatches();
    dispatch.set_invocation_id(++last_id_);
    dispatch.set_operation_name(operation);
    dispatch.set_reply_wanted(reply_wanted);
    *dispatch.mutable_request() = request.SerializeAsString();
    return dispatch;
  }
  template <typename Request>
  uint64_t Dispatch(const std::string& operation, const Request& request,
                    bool reply_wanted = false) {
    v1::SessionRequest message;
    Add(message, operation, request, reply_wanted);
    Say(message);
    return last_id_;
  }
  uint64_t Echo(size_t size, bool reply_wanted = true) {
    test::v1::EchoRequest echo;
    echo.set_text(std::string(size, 'e'));
    return Dispatch(kEcho, echo, reply_wanted);
  }
  uint64_t last_id() const { return last_id_; }

  // ---- the end ----
  void Close() { socket_.Reset(); }
  // Blocks until the daemon has closed the channel.
  bool AwaitEnd() {
    while (AwaitByte()) {
    }
    return Poll(POLLRDHUP);
  }
  // A look.
  bool HasEnded() {
    pollfd socket{.fd = socket_.get(), .events = POLLRDHUP, .revents = 0};
    return poll(&socket, 1, 0) > 0;
  }

 private:
  static constexpr uint64_t kMaxMessage = 0x7FFF'FFFF;

  bool Poll(short events) {
    pollfd socket{.fd = socket_.get(), .events = events, .revents = 0};
    const int ready = poll(&socket, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience)));
    EXPECT_EQ(ready, 1) << "nothing came by the side channel";
    return ready == 1;
  }
  bool Send(std::string_view bytes) {
    return send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  v1::SideChannelResponse Ask(const v1::SideChannelRequest& request) {
    v1::SideChannelResponse response;
    *response.mutable_status() = ToProto(absl::UnavailableError("closed"));
    if (!Send(*EncodeSideChannelFrame(request))) return response;
    fds_.clear();
    // Exactly one frame: what follows the one with the ring is no frame.
    std::string frame;
    size_t wanted = 4;
    while (frame.size() < wanted && Poll(POLLIN)) {
      char buffer[4096];
      const absl::StatusOr<SocketIo> io = ReceiveWithFds(
          socket_.get(), absl::MakeSpan(buffer, std::min(wanted - frame.size(), sizeof(buffer))),
          fds_);
      if (!io.ok() || io->end) return response;
      frame.append(buffer, io->bytes);
      if (frame.size() == 4 && wanted == 4) {
        for (size_t i = 0; i < 4; ++i) {
          wanted += static_cast<size_t>(static_cast<unsigned char>(frame[i])) << (8 * i);
        }
      }
    }
    EXPECT_TRUE(response.ParseFromString(frame.substr(4)));
    return response;
  }
  void OnResponse(std::string_view bytes) {
    v1::SessionResponse response;
    EXPECT_TRUE(response.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())));
    for (v1::Outcome& outcome : *response.mutable_outcomes()) {
      const uint64_t id = outcome.invocation_id();
      order_.push_back(id);
      EXPECT_TRUE(outcomes_.emplace(id, std::move(outcome)).second) << id << " ended twice";
    }
    const v1::InvocationRanges& ranges = response.succeeded();
    const auto add = [this](uint64_t first, uint64_t last) {
      for (uint64_t id = first; id <= last && id <= last_id_; ++id) {
        if (!outcomes_.contains(id)) succeeded_[id] = true;
      }
    };
    add(watermark_ + 1, ranges.watermark());
    watermark_ = std::max(watermark_, ranges.watermark());
    for (const v1::InvocationRange& range : ranges.ranges()) add(range.first(), range.last());
  }

  UniqueFd socket_;
  UniqueFd bell_;
  std::vector<UniqueFd> fds_;
  std::optional<RingMemory> memory_;
  std::optional<RingEnd> end_;
  bool closed_ = false;
  uint64_t last_id_ = 0;
  uint64_t watermark_ = 0;
  std::map<uint64_t, v1::Outcome> outcomes_;
  std::map<uint64_t, bool> succeeded_;
  std::vector<uint64_t> order_;
};

inline test::v1::RecordRequest Record(uint32_t producer, uint64_t index) {
  test::v1::RecordRequest request;
  request.set_producer(producer);
  request.set_index(index);
  return request;
}

// A host of the test operations, in this process.
class RingsFixture : public testing::Test {
 protected:
  RingsFixture() {
    char name[] = "/tmp/runloop-XXXXXX";
    directory_ = mkdtemp(name);
    // By its own name this process reaches it in process; by another it goes through the socket.
    std::filesystem::create_symlink(path(), directory_ + "/other-name");
  }
  ~RingsFixture() override {
    if (operations_ != nullptr) operations_->LetGo();  // in case a test failed while it held
    host_.reset();
    runtime_.reset();
    std::filesystem::remove_all(directory_);
  }

  std::string path() const { return directory_ + "/s"; }

  void Start(HostOptions host = {}, RuntimeOptions runtime = {.thread = RuntimeThread::kSpawn}) {
    operations_ = TestOperations::Register(runtime.operations);
    RegisterTestTopics(runtime.operations);
    const LogSink quiet = [](LogSeverity, std::string_view) {};
    runtime.log = quiet;
    runtime_ = *Runtime::Create(std::move(runtime));
    host.listen = path();
    host.log = quiet;
    ring_bytes_ = static_cast<size_t>(host.ring_bytes);
    host_ = *Host::Start(*runtime_, std::move(host));
  }

  ConnectOptions Options() const {
    return {.address = directory_ + "/other-name", .client_name = "honest"};
  }
  // A worker by a ring.
  RuntimeContext ConnectByRing() {
    absl::StatusOr<RuntimeContext> context = Connect(Options());
    EXPECT_TRUE(context.ok()) << context.status();
    // The host knows of it a moment later.
    EXPECT_TRUE(Await([&] { return TransportOf("honest") == "ring"; }));
    return *std::move(context);
  }
  // Of the session of that name; empty: there is none.
  std::string TransportOf(std::string_view client_name) {
    for (const auto& session : runtime_->GetSnapshot().sessions) {
      if (session->info().client_name == client_name) return session->transport().name;
    }
    return "";
  }
  // Of the one that is called `raw`.
  Session::Counts RawCounts() {
    for (const auto& session : runtime_->GetSnapshot().sessions) {
      if (session->info().client_name == "raw") return session->counts();
    }
    return {};
  }

  static absl::Status Echo(const RuntimeContext& context) {
    test::v1::EchoRequest request;
    request.set_text("honest");
    const auto reply = context.DispatchBlocking<test::v1::EchoReply>(kEcho, request);
    if (!reply.ok()) return reply.status();
    return reply->text() == "honest" ? absl::OkStatus() : absl::InternalError("another text");
  }

  // Nothing is left of the others: neither a session nor the memory of a ring.
  void ExpectOnly(const RuntimeContext& honest) {
    EXPECT_EQ(Echo(honest), absl::OkStatus());
    EXPECT_TRUE(Await([&] { return runtime_->GetSnapshot().sessions.size() == 1; }));
    EXPECT_EQ(TransportOf("honest"), "ring");
    EXPECT_TRUE(Await([&] {
      return runtime_->core()->buffers().GetBounds()[0].held.bytes ==
             static_cast<int64_t>(RingMemory::SizeOf(ring_bytes_, ring_bytes_));
    })) << "the memory of a ring that has ended is held";
    EXPECT_EQ(Echo(honest), absl::OkStatus());
  }

  std::string directory_;
  size_t ring_bytes_ = 0;
  std::shared_ptr<TestOperations> operations_;
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Host> host_;
};

}  // namespace runloop

#endif  // RUNLOOP_TESTS_RINGS_FIXTURE_H_

// Peers that use the side channel as they should not, over real sockets and from real processes.

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runloop/ipc/side_channel_frame.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/tests/buffers/fixture.h"
#include "runloop/v1/dispatcher.grpc.pb.h"
#include "runloop/v1/side_channel.pb.h"

namespace runloop {
namespace {

// A side channel that says what it is told to.
class RawChannel {
 public:
  struct Answer {
    absl::Status status;
    v1::SideChannelResponse response;
    UniqueFd fd;
  };

  explicit RawChannel(const Address& address) : socket_(*ConnectUnix(address)) {
    EXPECT_EQ(SendWithFds(socket_.get(), kSideChannelMagic, {})->bytes, kSideChannelMagic.size());
  }

  // Blocks until the answer has come. UNAVAILABLE: the daemon has closed the channel.
  Answer Ask(const v1::SideChannelRequest& request, const std::vector<int>& fds = {}) {
    const std::string frame = *EncodeSideChannelFrame(request);
    const absl::StatusOr<SocketIo> sent = SendWithFds(socket_.get(), frame, fds);
    if (!sent.ok()) return {.status = absl::UnavailableError("closed")};
    return Receive();
  }
  Answer Receive() {
    std::vector<UniqueFd> fds;
    while (true) {
      const absl::StatusOr<std::optional<std::string>> message = decoder_.Next();
      if (message->has_value()) {
        Answer answer;
        EXPECT_TRUE(answer.response.ParseFromString(**message));
        answer.status = FromProto(answer.response.status());
        if (!fds.empty()) answer.fd = std::move(fds[0]);
        return answer;
      }
      char byte;
      if (recv(socket_.get(), &byte, 1, MSG_PEEK) <= 0) {
        return {.status = absl::UnavailableError("closed")};
      }
      char buffer[4096];
      const absl::StatusOr<SocketIo> io =
          ReceiveWithFds(socket_.get(), absl::MakeSpan(buffer), fds);
      if (!io.ok()) return {.status = io.status()};
      decoder_.Append({buffer, io->bytes});
    }
  }

  Answer Attach(const std::string& session_id, const std::string& token) {
    v1::SideChannelRequest request;
    request.mutable_attach_session()->set_session_id(session_id);
    request.mutable_attach_session()->set_token(token);
    return Ask(request);
  }
  Answer Create(uint64_t size) {
    v1::SideChannelRequest request;
    request.mutable_create_buffer()->set_size(size);
    return Ask(request);
  }
  Answer Release(uint64_t id) {
    v1::SideChannelRequest request;
    request.mutable_release_buffer()->set_buffer(id);
    return Ask(request);
  }
  Answer Open(uint64_t id) {
    v1::SideChannelRequest request;
    request.mutable_open_buffer()->set_buffer(id);
    return Ask(request);
  }
  Answer Grant(uint64_t id, const std::string& session_id, bool writable) {
    v1::SideChannelRequest request;
    request.mutable_grant_buffer()->set_buffer(id);
    request.mutable_grant_buffer()->set_session_id(session_id);
    request.mutable_grant_buffer()->set_writable(writable);
    return Ask(request);
  }

  int fd() const { return socket_.get(); }
  // Blocks until the daemon has closed it.
  void AwaitEnd() {
    char buffer[256];
    while (recv(socket_.get(), buffer, sizeof(buffer), 0) > 0) {
    }
  }

 private:
  const UniqueFd socket_;
  SideChannelDecoder decoder_;
};

// A session of which the test sees the welcome.
class RawSession {
 public:
  explicit RawSession(const std::string& path) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = v1::Dispatcher::NewStub(
        grpc::CreateCustomChannel("unix:" + path, grpc::InsecureChannelCredentials(), arguments));
    stream_ = stub_->Session(&context_);
    v1::SessionRequest request;
    request.mutable_hello()->mutable_versions()->set_min(1);
    request.mutable_hello()->mutable_versions()->set_max(1);
    EXPECT_TRUE(stream_->Write(request));
    v1::SessionResponse response;
    EXPECT_TRUE(stream_->Read(&response));
    welcome_ = response.welcome();
  }
  ~RawSession() { context_.TryCancel(); }

  const std::string& id() const { return welcome_.session_id(); }
  const std::string& token() const { return welcome_.side_channel_token(); }

  // The status of one Sum of a piece.
  absl::Status Sum(uint64_t buffer, uint64_t offset, uint64_t length) {
    test::v1::SumRequest sum;
    sum.mutable_buffer()->set_buffer(buffer);
    sum.mutable_buffer()->set_offset(offset);
    sum.mutable_buffer()->set_length(length);
    v1::SessionRequest request;
    v1::Dispatch& dispatch = *request.add_dispatches();
    dispatch.set_invocation_id(++last_id_);
    dispatch.set_operation_name(kSum);
    dispatch.set_reply_wanted(true);
    *dispatch.mutable_request() = sum.SerializeAsString();
    EXPECT_TRUE(stream_->Write(request));
    v1::SessionResponse response;
    EXPECT_TRUE(stream_->Read(&response));
    return response.outcomes(0).has_reply() ? absl::OkStatus()
                                            : FromProto(response.outcomes(0).status());
  }

 private:
  std::unique_ptr<v1::Dispatcher::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>> stream_;
  v1::Welcome welcome_;
  uint64_t last_id_ = 0;
};

size_t OpenFiles() {
  const std::filesystem::directory_iterator files("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(files), end(files)));
}

class HostileTest : public BuffersFixture {
 protected:
  Address address() const { return {.path = directory_ + "/s"}; }
  std::unique_ptr<RawChannel> Attached(const RawSession& session) {
    auto channel = std::make_unique<RawChannel>(address());
    EXPECT_EQ(channel->Attach(session.id(), session.token()).status, absl::OkStatus());
    return channel;
  }
  std::unique_ptr<RawSession> OpenSession() {
    return std::make_unique<RawSession>(directory_ + "/s");
  }
};

TEST_F(HostileTest, OnlyTheSessionsOwnTokenAttaches) {
  Start();
  const auto session = OpenSession(), other = OpenSession();
  ASSERT_EQ(session->token().size(), 16u);
  std::string flipped = session->token();
  flipped[15] = static_cast<char>(flipped[15] ^ 1);
  const std::pair<std::string, std::string> wrong[] = {
      {session->id(), flipped},
      {session->id(), other->token()},
      {session->id(), ""},
      {session->id(), session->token().substr(0, 15)},
      {session->id(), session->token() + "x"},
      {"", session->token()},
      {"nobody", session->token()}};
  for (const auto& [id, token] : wrong) {
    RawChannel channel(address());
    const RawChannel::Answer answer = channel.Attach(id, token);
    EXPECT_EQ(ReasonOf(answer.status), v1::ERROR_REASON_UNKNOWN_SESSION) << answer.status;
    channel.AwaitEnd();
  }
  EXPECT_EQ(Attached(*session)->Create(1).status, absl::OkStatus());
}

TEST_F(HostileTest, AnotherProcessCannotAttachEvenWithTheToken) {
  Start();
  const auto session = OpenSession();
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    RawChannel channel(address());
    _exit(ReasonOf(channel.Attach(session->id(), session->token()).status) ==
                  v1::ERROR_REASON_UNKNOWN_SESSION
              ? 0
              : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(HostileTest, ARoleCannotAttachToASessionOfTheMainSocketButToItsOwn) {
  Start();
  RawChannel roles(address());
  const Address role_address{.path = directory_ + "/role"};
  {
    const UniqueFd listening = *ListenUnix(role_address);
    v1::SideChannelRequest request;
    request.mutable_add_role_socket()->set_role("camera");
    ASSERT_EQ(roles.Ask(request, {listening.get()}).status, absl::OkStatus());
  }
  const auto main = OpenSession();
  const RawSession camera(role_address.path);
  RawChannel wrong(role_address);
  EXPECT_EQ(ReasonOf(wrong.Attach(main->id(), main->token()).status),
            v1::ERROR_REASON_UNKNOWN_SESSION);
  wrong.AwaitEnd();
  RawChannel unattached(role_address);
  EXPECT_TRUE(absl::IsFailedPrecondition(unattached.Create(1).status));
  unattached.AwaitEnd();
  RawChannel right(role_address);
  ASSERT_EQ(right.Attach(camera.id(), camera.token()).status, absl::OkStatus());
  EXPECT_EQ(right.Create(1).status, absl::OkStatus());
  // Attached or not, it adds no role.
  const UniqueFd listening = *ListenUnix({.path = directory_ + "/inner"});
  v1::SideChannelRequest request;
  request.mutable_add_role_socket()->set_role("other");
  EXPECT_EQ(ReasonOf(right.Ask(request, {listening.get()}).status), v1::ERROR_REASON_NOT_ALLOWED);
  right.AwaitEnd();
}

TEST_F(HostileTest, IdsThatAreNotTheSessionsAreRefused) {
  Start();
  const auto session = OpenSession(), other = OpenSession();
  const auto channel = Attached(*session), others = Attached(*other);
  const RawChannel::Answer made = channel->Create(4096);
  ASSERT_EQ(made.status, absl::OkStatus());
  const uint64_t id = made.response.buffer().buffer();
  EXPECT_EQ(session->Sum(id, 0, 4096), absl::OkStatus());
  EXPECT_EQ(ReasonOf(other->Sum(id, 0, 1)), v1::ERROR_REASON_UNKNOWN_BUFFER);
  for (const absl::Status& refused :
       {others->Release(id).status, others->Open(id).status,
        others->Grant(id, other->id(), true).status, channel->Release(0).status,
        channel->Release(id + 1).status, channel->Open(~uint64_t{0}).status}) {
    EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_UNKNOWN_BUFFER) << refused;
  }
  EXPECT_EQ(channel->Release(id).status, absl::OkStatus());
  EXPECT_EQ(ReasonOf(channel->Release(id).status), v1::ERROR_REASON_UNKNOWN_BUFFER);
  EXPECT_EQ(ReasonOf(session->Sum(id, 0, 1)), v1::ERROR_REASON_UNKNOWN_BUFFER);
  EXPECT_EQ(count(), 0);
}

TEST_F(HostileTest, PiecesThatOverflowAreRefused) {
  Start();
  const auto session = OpenSession();
  const auto channel = Attached(*session);
  const RawChannel::Answer made = channel->Create(4096);
  const uint64_t id = made.response.buffer().buffer();
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  const std::pair<uint64_t, uint64_t> outside[] = {
      {0, 4097}, {4096, 1}, {kMost, 1}, {1, kMost}, {kMost, kMost}, {kMost - 4095, 4096}};
  for (const auto& [offset, length] : outside) {
    EXPECT_EQ(session->Sum(id, offset, length).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(HostileTest, ABufferCanNeitherShrinkNorBeTakenFromTheDaemon) {
  Start();
  const auto session = OpenSession();
  const auto channel = Attached(*session);
  const RawChannel::Answer made = channel->Create(8192);
  const uint64_t id = made.response.buffer().buffer();
  const int fd = made.fd.get();
  for (const off_t size : {off_t{0}, off_t{4096}, off_t{1} << 20}) {
    EXPECT_EQ(ftruncate(fd, size), -1);
    EXPECT_EQ(errno, EPERM);
  }
  EXPECT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);  // the daemon has it mapped for writing
  EXPECT_EQ(errno, EBUSY);
  // Holes read as zeros.
  EXPECT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 12288), 0);
  EXPECT_EQ(session->Sum(id, 0, 8192), absl::OkStatus());
  // Its owner may forbid others to write, and with that only itself.
  EXPECT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL), 0);
  EXPECT_EQ(session->Sum(id, 0, 8192), absl::OkStatus());
  const auto other = OpenSession();
  EXPECT_TRUE(absl::IsFailedPrecondition(channel->Grant(id, other->id(), true).status));
  EXPECT_EQ(channel->Grant(id, other->id(), false).status, absl::OkStatus());
}

TEST_F(HostileTest, WhoMayOnlyReadCannotWrite) {
  Start();
  const auto session = OpenSession(), reader = OpenSession();
  const auto channel = Attached(*session), readers = Attached(*reader);
  const RawChannel::Answer made = channel->Create(4096);
  const uint64_t id = made.response.buffer().buffer();
  void* const owners = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, made.fd.get(), 0);
  ASSERT_NE(owners, MAP_FAILED);
  ASSERT_EQ(channel->Grant(id, reader->id(), false).status, absl::OkStatus());
  const RawChannel::Answer opened = readers->Open(id);
  ASSERT_EQ(opened.status, absl::OkStatus());
  EXPECT_FALSE(opened.response.buffer().writable());
  EXPECT_FALSE(opened.response.buffer().owned());
  const std::string path = "/proc/self/fd/" + std::to_string(opened.fd.get());
  const UniqueFd reopened(open(path.c_str(), O_RDWR | O_CLOEXEC));
  for (const int fd : {opened.fd.get(), reopened.get()}) {
    EXPECT_EQ(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    EXPECT_EQ(pwrite(fd, "x", 1, 0), -1);
    EXPECT_NE(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
    EXPECT_EQ(ftruncate(fd, 0), -1);
  }
  void* const seen = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, opened.fd.get(), 0);
  ASSERT_NE(seen, MAP_FAILED);
  EXPECT_EQ(mprotect(seen, 4096, PROT_READ | PROT_WRITE), -1);
  // The owner goes on writing.
  static_cast<char*>(owners)[7] = 'w';
  EXPECT_EQ(static_cast<const char*>(seen)[7], 'w');
  munmap(seen, 4096);
  munmap(owners, 4096);
}

TEST_F(HostileTest, MoreThanTheQuotaIsRefusedAndCounted) {
  Start({.session = {.items = 10, .bytes = 1 << 20}});
  const auto session = OpenSession();
  const auto channel = Attached(*session);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 10; ++i) {
    const RawChannel::Answer made = channel->Create(1);
    ASSERT_EQ(made.status, absl::OkStatus());
    ids.push_back(made.response.buffer().buffer());
  }
  const uint64_t before = buffers().refused();
  for (int i = 0; i < 100; ++i) {
    const RawChannel::Answer full = channel->Create(1);
    EXPECT_EQ(full.status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_FALSE(full.fd.valid());
  }
  EXPECT_EQ(buffers().refused(), before + 100);
  EXPECT_EQ(channel->Release(ids[0]).status, absl::OkStatus());
  EXPECT_EQ(ReasonOf(channel->Create(2 << 20).status), v1::ERROR_REASON_BUFFERS_FULL);
  EXPECT_EQ(ReasonOf(channel->Create(~uint64_t{0}).status), v1::ERROR_REASON_BUFFERS_FULL);
  EXPECT_EQ(channel->Create(1).status, absl::OkStatus());
}

constexpr char kVictimSocket[] = "RUNLOOP_TEST_VICTIM_SOCKET";

// The program that the next test starts and kills.
TEST(HostileVictim, DISABLED_HoldsBuffersUntilItIsKilled) {
  const RuntimeContext context = *Connect({.address = std::getenv(kVictimSocket)});
  absl::StatusOr<Buffer> held = context.NewBuffer(8192), mapped = context.NewBuffer(8192);
  ASSERT_TRUE(held.ok() && mapped.ok());
  for (uint8_t& byte : held->mutable_data()) byte = 3;
  test::v1::HoldBufferRequest request;
  *request.mutable_buffer() = held->ref();
  ASSERT_TRUE(context.DispatchBlocking<test::v1::HoldBufferReply>(kHoldBuffer, request).ok());
  while (true) pause();
}

TEST_F(HostileTest, WhatAProcessHadThatWasKilledIsFreedButWhatAnOperationHolds) {
  Start();
  const RuntimeContext context = Connect();
  const size_t before = OpenFiles();
  setenv(kVictimSocket, (directory_ + "/s").c_str(), 1);
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "buffers_test", "--gtest_filter=HostileVictim.*",
          "--gtest_also_run_disabled_tests", nullptr);
    _exit(1);
  }
  AwaitCount(2);
  // Once its operation runs, it holds one of them.
  const auto held = [&] {
    for (const auto& operation : runtime_->operations().List()) {
      if (operation->name() == kHoldBuffer && operation->statistics().succeeded.load() > 0) {
        return true;
      }
    }
    return false;
  };
  while (!held()) std::this_thread::yield();
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  AwaitCount(1);
  EXPECT_EQ(*Hold(context), 3u * 8192);
  AwaitCount(0);
  while (OpenFiles() > before) std::this_thread::yield();
}

TEST_F(HostileTest, TenThousandDescriptorsAtOnceAreRefusedCountedAndClosed) {
  Start();
  const auto session = OpenSession();
  const UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  {
    const auto warm = Attached(*session);  // what the first of all opens stays open
    ASSERT_EQ(warm->Create(1).status, absl::OkStatus());
  }
  AwaitCount(1);
  const size_t before = OpenFiles();
  const uint64_t refused = buffers().refused();
  constexpr int kTotal = 10'000;
  constexpr size_t kAtOnce = 250;  // the kernel's limit is 253
  v1::SideChannelRequest request;
  request.mutable_send_descriptor();
  const std::string frame = *EncodeSideChannelFrame(request);
  uint64_t messages = 0;
  // Of who has too many that are still to be closed nothing is received.
  const auto await_closed = [&] {
    while (buffers().Unclosed({.pid = getpid()}) > 0) std::this_thread::yield();
  };
  for (size_t sent = 0; sent < kTotal; sent += kAtOnce, ++messages) {
    RawChannel channel(address());
    ASSERT_EQ(channel.Attach(session->id(), session->token()).status, absl::OkStatus());
    std::vector<int> fds(kAtOnce, file.get());
    iovec data = {const_cast<char*>(frame.data()), frame.size()};
    std::vector<char> control(CMSG_SPACE(sizeof(int) * kAtOnce));
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * kAtOnce);
    std::copy(fds.begin(), fds.end(), reinterpret_cast<int*>(CMSG_DATA(header)));
    ASSERT_EQ(sendmsg(channel.fd(), &message, MSG_NOSIGNAL), static_cast<ssize_t>(frame.size()));
    channel.AwaitEnd();
    await_closed();
  }
  // As many as are taken in one message, and nobody asked for, one by one.
  for (int i = 0; i < kTotal; i += 16) {
    RawChannel channel(address());
    const RawChannel::Answer answer = channel.Ask(request, std::vector<int>(16, file.get()));
    EXPECT_FALSE(answer.status.ok());
    await_closed();
  }
  EXPECT_GE(buffers().refused(), refused + messages + kTotal);
  while (OpenFiles() > before) std::this_thread::yield();
}

TEST_F(HostileTest, DescriptorsThatWaitAreBoundedAndClosedWithTheSession) {
  Start({.session = {.items = 20, .bytes = 1 << 20}});
  auto session = OpenSession();
  auto channel = Attached(*session);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  v1::SideChannelRequest request;
  request.mutable_send_descriptor();
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(channel->Ask(request, {writer.get()}).status, absl::OkStatus());
  }
  EXPECT_EQ(ReasonOf(channel->Ask(request, {writer.get()}).status), v1::ERROR_REASON_BUFFERS_FULL);
  EXPECT_EQ(ReasonOf(channel->Ask(request).status), v1::ERROR_REASON_INVALID_REQUEST);
  EXPECT_EQ(ReasonOf(channel->Ask(request, {writer.get(), writer.get()}).status),
            v1::ERROR_REASON_INVALID_REQUEST);
  writer.Reset();
  session.reset();
  char byte;
  EXPECT_EQ(read(reader.get(), &byte, 1), 0);  // returns once the last of them is closed
  EXPECT_EQ(ReasonOf(channel->Create(1).status), v1::ERROR_REASON_SESSION_ENDED);
}

}  // namespace
}  // namespace runloop

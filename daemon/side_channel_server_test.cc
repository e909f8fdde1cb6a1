#include "runloop/daemon/side_channel_server.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/process_info.h"
#include "runloop/daemon/testing/listener_fixture.h"
#include "runloop/ipc/side_channel_frame.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"
#include "runloop/tests/testing/lingering_socket.h"
#include "runloop/v1/side_channel.pb.h"

namespace runloop::daemon {
namespace {

class SideChannelTest : public ListenerFixture {
 protected:
  SideChannelTest() { role_address_.path = directory_ + "/role"; }

  static std::string Frame(const std::string& role) {
    v1::SideChannelRequest request;
    request.mutable_add_role_socket()->set_role(role);
    return *EncodeSideChannelFrame(request);
  }

  // Blocks until a response has come.
  static absl::Status Response(const UniqueFd& socket) {
    SideChannelDecoder decoder;
    for (;;) {
      char buffer[4096];
      const ssize_t got = recv(socket.get(), buffer, sizeof(buffer), 0);
      if (got <= 0) return absl::UnavailableError("closed");
      decoder.Append({buffer, static_cast<size_t>(got)});
      const auto message = decoder.Next();
      if (!message.ok()) return message.status();
      if (!*message) continue;
      v1::SideChannelResponse response;
      EXPECT_TRUE(response.ParseFromString(**message));
      return FromProto(response.status());
    }
  }

  UniqueFd Open() {
    UniqueFd socket = Connect();
    Send(socket, kSideChannelMagic);
    return socket;
  }

  // Adds the role socket; it lasts as long as what is returned.
  UniqueFd OpenRole() {
    UniqueFd channel = Open();
    const UniqueFd listening = *ListenUnix(role_address_);
    Send(channel, Frame("camera"), {listening.get()});
    EXPECT_EQ(Response(channel), absl::OkStatus());
    return channel;
  }

  Address role_address_;
};

TEST_F(SideChannelTest, WhoComesByARoleSocketHasTheRole) {
  Start();
  const UniqueFd channel = Open();
  {
    const UniqueFd listening = *ListenUnix(role_address_);
    Send(channel, Frame("camera.1"), {listening.get()});
    ASSERT_EQ(Response(channel), absl::OkStatus());
  }
  const UniqueFd worker = *ConnectUnix(role_address_);
  Send(worker, "P");
  const int fd = AwaitServed(1);
  EXPECT_EQ(connections_.Find(absl::StrCat("fd:", fd))->peer().role, "camera.1");
}

TEST_F(SideChannelTest, TheRoleSocketEndsWithTheChannelAndItsConnectionsDoNot) {
  Start();
  UniqueFd channel = Open();
  {
    const UniqueFd listening = *ListenUnix(role_address_);
    Send(channel, Frame("camera"), {listening.get()});
    ASSERT_EQ(Response(channel), absl::OkStatus());
  }
  const UniqueFd worker = *ConnectUnix(role_address_);
  Send(worker, "P");
  AwaitServed(1);
  channel.Reset();
  while (ConnectUnix(role_address_).ok()) std::this_thread::yield();
  EXPECT_EQ(connections_.size(), 1u);
}

TEST_F(SideChannelTest, ARoleCannotAddRoles) {
  Start();
  const UniqueFd channel = Open();
  const UniqueFd listening = *ListenUnix(role_address_);
  Send(channel, Frame("camera"), {listening.get()});
  ASSERT_EQ(Response(channel), absl::OkStatus());
  const UniqueFd inner = *ConnectUnix(role_address_);
  Send(inner, kSideChannelMagic);
  Send(inner, Frame("other"), {listening.get()});
  const absl::Status refused = Response(inner);
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_NOT_ALLOWED);
  AwaitEnd(inner);
}

TEST_F(SideChannelTest, AWorkerWithARoleHasFewConnections) {
  Start();
  const UniqueFd channel = Open();
  const UniqueFd listening = *ListenUnix(role_address_);
  Send(channel, Frame("camera"), {listening.get()});
  ASSERT_EQ(Response(channel), absl::OkStatus());
  const UniqueFd first = *ConnectUnix(role_address_), second = *ConnectUnix(role_address_);
  AwaitEnd(*ConnectUnix(role_address_));
  EXPECT_EQ(connections_.refused_peers, 1u);
  const UniqueFd main = Connect();
  Send(main, "P");
  AwaitServed(1);
}

TEST_F(SideChannelTest, ARoleHasNoMoreConnectionsForHavingMoreProcesses) {
  Start();
  const UniqueFd channel = OpenRole();
  const UniqueFd first = *ConnectUnix(role_address_), second = *ConnectUnix(role_address_);
  sockaddr_un to{.sun_family = AF_UNIX};
  role_address_.path.copy(to.sun_path, sizeof(to.sun_path) - 1);
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(10);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) _exit(1);
    char byte;
    _exit(read(fd, &byte, 1) <= 0 ? 0 : 2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(connections_.refused_peers, 1u);
}

TEST_F(SideChannelTest, OfTooManyThatSayNothingThoseOfARoleGoFirst) {
  Start(absl::Seconds(600), 2);
  const UniqueFd channel = OpenRole();
  const UniqueFd first = Connect();
  const UniqueFd worker = *ConnectUnix(role_address_);
  const UniqueFd last = Connect();
  AwaitEnd(worker);
  Send(first, "P");
  Send(last, "P");
  AwaitServed(2);
}

TEST_F(SideChannelTest, SideChannelsOfRolesLeaveRoomForOthers) {
  max_role_connections_ = 200;
  Start();
  const UniqueFd channel = OpenRole();
  std::vector<UniqueFd> channels;
  for (int i = 0; i < 129; ++i) {
    channels.push_back(*ConnectUnix(role_address_));
    Send(channels.back(), kSideChannelMagic);
  }
  AwaitEnd(channels.back());
  role_address_.path += "2";
  OpenRole();
}

TEST_F(SideChannelTest, TheLastDescriptorsAreNotForRoles) {
  Start();
  const UniqueFd channel = OpenRole();
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low = {.rlim_cur = 256, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  std::vector<UniqueFd> taken;
  do {
    taken.emplace_back(dup(channel.get()));
  } while (taken.back().get() < 256 - 64);
  const UniqueFd worker = *ConnectUnix(role_address_);
  AwaitEnd(worker);
  const UniqueFd main = Connect();
  Send(main, "P");
  AwaitServed(1);
  setrlimit(RLIMIT_NOFILE, &before);
}

TEST_F(SideChannelTest, RefusesWhatIsNoRoleAndWhatIsNoListeningSocket) {
  Start();
  const UniqueFd channel = Open();
  const UniqueFd listening = *ListenUnix(role_address_);
  Send(channel, Frame("none"));
  (void)Response(channel);  // the daemon has the channel's other end now
  const uint32_t before = CountOpenFiles();
  for (const char* role : {"", "Camera", "1camera", "a/b", "a b"}) {
    Send(channel, Frame(role), {listening.get()});
    EXPECT_EQ(Response(channel).code(), absl::StatusCode::kInvalidArgument) << role;
  }
  Send(channel, Frame(std::string(65, 'a')), {listening.get()});
  EXPECT_EQ(Response(channel).code(), absl::StatusCode::kInvalidArgument);
  Send(channel, Frame("two"), {listening.get(), listening.get()});
  EXPECT_EQ(Response(channel).code(), absl::StatusCode::kInvalidArgument);
  Send(channel, Frame("connected"), {channel.get()});
  EXPECT_EQ(Response(channel).code(), absl::StatusCode::kInvalidArgument);
  const UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  Send(channel, Frame("file"), {file.get()});
  EXPECT_EQ(Response(channel).code(), absl::StatusCode::kInvalidArgument);
  Send(channel, Frame("good"), {listening.get()});
  EXPECT_EQ(Response(channel), absl::OkStatus());
  // What was refused is closed by another thread.
  while (buffers_->Unclosed({.pid = getpid()}) != 0) std::this_thread::yield();
  EXPECT_EQ(CountOpenFiles(), before + 2);  // the file here, the role socket there
}

TEST_F(SideChannelTest, AMessageThatDoesNotParseIsAnErrorAndTheChannelGoesOn) {
  Start();
  const UniqueFd channel = Open();
  Send(channel, std::string("\3\0\0\0\xff\xff\xff", 7));
  EXPECT_EQ(Response(channel).code(), absl::StatusCode::kInvalidArgument);
  Send(channel, std::string("\0\0\0\0", 4));
  EXPECT_EQ(Response(channel).code(), absl::StatusCode::kUnimplemented);
}

TEST_F(SideChannelTest, AFrameMayComeByteByByte) {
  Start();
  const UniqueFd channel = Connect();
  const UniqueFd listening = *ListenUnix(role_address_);
  for (const char byte : kSideChannelMagic) Send(channel, {&byte, 1});
  const std::string frame = Frame("camera");
  Send(channel, frame.substr(0, 1), {listening.get()});
  for (size_t i = 1; i < frame.size(); ++i) Send(channel, frame.substr(i, 1));
  EXPECT_EQ(Response(channel), absl::OkStatus());
}

TEST_F(SideChannelTest, AFrameThatIsTooLargeOrAnotherMagicEndsTheChannel) {
  Start();
  const UniqueFd channel = Open();
  Send(channel, std::string("\1\0\1\0", 4));
  AwaitEnd(channel);
  const UniqueFd other = Connect();
  Send(other, "RUNLOOP2");
  AwaitEnd(other);
}

TEST_F(SideChannelTest, ARoleSocketThatWasShutDownHarmsNobodyElse) {
  Start();
  const UniqueFd channel = Open();
  const UniqueFd listening = *ListenUnix(role_address_);
  Send(channel, Frame("camera"), {listening.get()});
  ASSERT_EQ(Response(channel), absl::OkStatus());
  shutdown(listening.get(), SHUT_RDWR);
  const UniqueFd client = Connect();
  Send(client, "P");
  AwaitServed(1);
}

// One channel, and a loop that the test runs.
class SideChannelDeadlineTest : public testing::Test {
 protected:
  SideChannelDeadlineTest() {
    EXPECT_TRUE(loop_.Attach([](const DrainBudget&) { return false; }).ok());
    EXPECT_TRUE(loop_
                    .AddFd(idle_.get(), EPOLLIN,
                           [this](uint32_t) {
                             int unread = 0;
                             if (server_.size() > 0) {
                               EXPECT_EQ(ioctl(daemon_end_, FIONREAD, &unread), 0);
                             }
                             if (unread == 0) loop_.Quit();
                           })
                    .ok());
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    peer_.Reset(ends[0]);
    daemon_end_ = ends[1];
    server_.Add({.socket = UniqueFd(ends[1]), .peer = {.pid = 100}, .slot = {}, .process = {}});
    Send(kSideChannelMagic);
  }

  // Returns when the daemon has read it.
  void Send(std::string_view bytes, const std::vector<int>& fds = {}) {
    ASSERT_EQ(SendWithFds(peer_.get(), bytes, fds)->bytes, bytes.size());
    EXPECT_TRUE(loop_.Run().ok());
  }
  static absl::Time InTenSeconds() { return Clock::Monotonic()->Now() + absl::Seconds(10); }

  EpollLoop loop_;
  const UniqueFd idle_{eventfd(1, EFD_CLOEXEC)};  // always ready
  const std::shared_ptr<internal::BufferRegistry> buffers_ =
      std::make_shared<internal::BufferRegistry>(BufferBounds(), 1000);
  SessionTokens sessions_;
  int deadline_changes_ = 0;
  SideChannelServer server_{loop_,
                            {.add_role_socket = {},
                             .remove_role_socket = {},
                             .buffers = buffers_.get(),
                             .sessions = &sessions_},
                            absl::Seconds(10),
                            [](LogSeverity, std::string_view) {},
                            [this] { ++deadline_changes_; }};
  UniqueFd peer_;
  int daemon_end_ = -1;
  const std::string frame_ = std::string("\4\0\0\0four", 8);
};

TEST_F(SideChannelDeadlineTest,
       AFrameThatIsNotFinishedInTimeEndsTheChannelAndClosesItsDescriptors) {
  EXPECT_EQ(deadline_changes_, 1);
  server_.CloseLate(InTenSeconds());  // it has greeted
  EXPECT_EQ(server_.size(), 1u);
  EXPECT_EQ(server_.next_deadline(), absl::InfiniteFuture());
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  const absl::Time begins = InTenSeconds();
  Send(frame_.substr(0, 6), {UniqueFd(ends[1]).get()});
  EXPECT_EQ(deadline_changes_, 2);
  // More of it gives no more time.
  const absl::Time deadline = server_.next_deadline();
  Send(frame_.substr(6, 1));
  EXPECT_EQ(server_.next_deadline(), deadline);
  server_.CloseLate(begins - absl::Milliseconds(1));
  EXPECT_EQ(server_.size(), 1u);
  server_.CloseLate(deadline);
  EXPECT_EQ(server_.size(), 0u);
  char byte;
  EXPECT_EQ(read(reader.get(), &byte, 1), 0);
  EXPECT_EQ(recv(peer_.get(), &byte, 1, 0), 0);
}

TEST_F(SideChannelDeadlineTest, BetweenFramesThereIsNoDeadline) {
  Send(frame_.substr(0, 6));
  Send(frame_.substr(6));
  server_.CloseLate(InTenSeconds());
  EXPECT_EQ(server_.size(), 1u);
  EXPECT_EQ(server_.next_deadline(), absl::InfiniteFuture());
}

// As the deadlines', with a peer whose descriptors take long to be closed.
using SideChannelClosingTest = SideChannelDeadlineTest;

TEST_F(SideChannelClosingTest, NobodyWaitsUntilADescriptorThatNobodyAskedForIsClosed) {
  LingeringSocket unasked, unfinished;
  const PeerIdentity peer{.pid = 100};
  Send(frame_.substr(0, 6), {unasked.fd()});
  unasked.Linger();
  unasked.Take();
  Send(frame_.substr(6));
  EXPECT_EQ(buffers_->Unclosed(peer), 1);
  Send(frame_.substr(0, 6), {unfinished.fd()});
  unfinished.Linger();
  unfinished.Take();
  server_.CloseLate(InTenSeconds());
  EXPECT_EQ(server_.size(), 0u);
  EXPECT_EQ(buffers_->Unclosed(peer), 2);
  unasked.reader.Reset();
  unfinished.reader.Reset();
  while (buffers_->Unclosed(peer) != 0) std::this_thread::yield();
}

TEST_F(SideChannelClosingTest, NothingIsReceivedOfWhoHasManyThatAreStillToBeClosed) {
  LingeringSocket stuck;
  Send(frame_.substr(0, 6), {stuck.fd()});
  stuck.Linger();
  stuck.Take();
  Send(frame_.substr(6));
  const std::vector<int> many(kMaxFdsPerMessage, idle_.get());
  int64_t sent = 1;
  for (; sent < internal::BufferRegistry::kMaxUnclosed; sent += many.size()) Send(frame_, many);
  EXPECT_EQ(server_.size(), 0u);
  EXPECT_EQ(buffers_->Unclosed({.pid = 100}), sent);
  EXPECT_EQ(buffers_->Unclosed({.pid = 100, .role = "camera"}), 0);
  stuck.reader.Reset();
  while (buffers_->Unclosed({.pid = 100}) != 0) std::this_thread::yield();
}

}  // namespace
}  // namespace runloop::daemon

#include "runloop/ipc/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace runloop {
namespace {

class UnixSocketTest : public testing::Test {
 protected:
  UnixSocketTest() {
    std::string pattern = testing::TempDir() + "/sock-XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  ~UnixSocketTest() override { std::filesystem::remove_all(directory_); }

  Address At(std::string_view name) const { return Address{directory_ + "/" + std::string(name)}; }

  std::string directory_;
};

TEST_F(UnixSocketTest, ConnectsToAListenerWhichSeesWhoItIs) {
  absl::StatusOr<UniqueFd> listener = ListenUnix(At("s"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_TRUE(CheckListeningUnixSocket(listener->get()).ok());
  absl::StatusOr<UniqueFd> client = ConnectUnix(At("s"));
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(fcntl(client->get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(fcntl(client->get(), F_GETFD), FD_CLOEXEC);
  UniqueFd served(accept(listener->get(), nullptr, nullptr));
  absl::StatusOr<PeerIdentity> peer = GetPeerIdentity(served.get());
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(peer->uid, geteuid());
  EXPECT_EQ(peer->role, "");
}

TEST_F(UnixSocketTest, TheFileHasTheModeThatWasAskedFor) {
  absl::StatusOr<UniqueFd> listener = ListenUnix(At("s"), 0600);
  struct stat info;
  ASSERT_EQ(stat(At("s").path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
}

TEST_F(UnixSocketTest, SaysWhyItCouldNotConnect) {
  EXPECT_EQ(ConnectUnix(At("none")).status().code(), absl::StatusCode::kNotFound);
  { ASSERT_TRUE(ListenUnix(At("stale")).ok()); }
  const absl::Status refused = ConnectUnix(At("stale")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(refused.message(),
            "cannot connect to unix:" + At("stale").path + ": Connection refused");
}

TEST_F(UnixSocketTest, AFileThatIsThereIsNotReplaced) {
  absl::StatusOr<UniqueFd> first = ListenUnix(At("s"));
  EXPECT_EQ(ListenUnix(At("s")).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(ConnectUnix(At("s")).ok());
  EXPECT_EQ(ListenUnix(At("no/such")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(UnixSocketTest, AFullBacklogIsAnErrorAndNotAWait) {
  absl::StatusOr<UniqueFd> listener = ListenUnix(At("s"));
  ASSERT_EQ(listen(listener->get(), 0), 0);
  std::vector<UniqueFd> clients;
  absl::StatusOr<UniqueFd> client = ConnectUnix(At("s"));
  while (client.ok() && clients.size() < 100) {
    clients.push_back(*std::move(client));
    client = ConnectUnix(At("s"));
  }
  EXPECT_EQ(client.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(UnixSocketTest, OnlyAListeningUnixStreamSocketPassesTheCheck) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  UniqueFd a(pair[0]), b(pair[1]);
  UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  UniqueFd tcp(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  for (int fd : {a.get(), file.get(), tcp.get(), 9999}) {
    EXPECT_EQ(CheckListeningUnixSocket(fd).code(), absl::StatusCode::kInvalidArgument);
  }
}

class SocketPairTest : public testing::Test {
 protected:
  SocketPairTest() {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0) {
      a_.Reset(pair[0]);
      b_.Reset(pair[1]);
    }
  }

  UniqueFd a_, b_;
  char buffer_[64];
};

TEST_F(SocketPairTest, DescriptorsArriveWithTheirBytes) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd read_end(pipe_fds[0]), write_end(pipe_fds[1]);
  const int sent[] = {write_end.get(), write_end.get()};
  EXPECT_EQ(SendWithFds(a_.get(), "hello", sent)->bytes, 5u);

  std::vector<UniqueFd> fds;
  absl::StatusOr<SocketIo> io = ReceiveWithFds(b_.get(), absl::MakeSpan(buffer_), fds);
  ASSERT_TRUE(io.ok()) << io.status();
  EXPECT_EQ(std::string_view(buffer_, io->bytes), "hello");
  ASSERT_EQ(fds.size(), 2u);
  EXPECT_EQ(fcntl(fds[0].get(), F_GETFD), FD_CLOEXEC);
  ASSERT_EQ(write(fds[1].get(), "!", 1), 1);
  char got;
  EXPECT_EQ(read(read_end.get(), &got, 1), 1);
}

TEST_F(SocketPairTest, NothingToReadIsNotTheEnd) {
  std::vector<UniqueFd> fds;
  EXPECT_TRUE(ReceiveWithFds(b_.get(), absl::MakeSpan(buffer_), fds)->would_block);
  a_.Reset();
  EXPECT_TRUE(ReceiveWithFds(b_.get(), absl::MakeSpan(buffer_), fds)->end);
}

TEST_F(SocketPairTest, SendingToAPeerThatLeftIsUnavailable) {
  b_.Reset();
  EXPECT_EQ(SendWithFds(a_.get(), "x", {}).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(SocketPairTest, AFullSocketTakesAPrefixThenNothing) {
  const std::string chunk(100'000, 'x');
  size_t sent = 0;
  while (true) {
    absl::StatusOr<SocketIo> io = SendWithFds(a_.get(), chunk, {});
    ASSERT_TRUE(io.ok()) << io.status();
    if (io->would_block) break;
    sent += io->bytes;
    ASSERT_LT(sent, 1u << 28);
  }
  EXPECT_GT(sent, 0u);
}

TEST_F(SocketPairTest, TooManyDescriptorsAreNeitherSentNorLost) {
  const std::vector<int> many(kMaxFdsPerMessage + 1, a_.get());
  EXPECT_EQ(SendWithFds(a_.get(), "x", many).status().code(), absl::StatusCode::kInvalidArgument);

  iovec data = {buffer_, 1};
  std::vector<char> control(CMSG_SPACE(sizeof(int) * many.size()));
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int) * many.size());
  memcpy(CMSG_DATA(header), many.data(), sizeof(int) * many.size());
  ASSERT_EQ(sendmsg(a_.get(), &message, 0), 1);

  const int before = dup(a_.get());
  close(before);
  std::vector<UniqueFd> fds;
  EXPECT_EQ(ReceiveWithFds(b_.get(), absl::MakeSpan(buffer_), fds).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(fds.size(), kMaxFdsPerMessage);
  fds.clear();
  UniqueFd after(dup(a_.get()));
  EXPECT_EQ(after.get(), before);
}

}  // namespace
}  // namespace runloop

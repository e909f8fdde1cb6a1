#include "runloop/daemon/listener.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/process_info.h"
#include "runloop/daemon/testing/listener_fixture.h"
#include "runloop/ipc/side_channel_frame.h"

namespace runloop::daemon {
namespace {

class ListenerTest : public ListenerFixture {};

TEST_F(ListenerTest, HandsAGrpcConnectionOverWithAllItsBytesAndItsIdentity) {
  Start();
  const UniqueFd client = Connect();
  Send(client, "PRI * HTTP/2.0");
  const int fd = AwaitServed(1);
  const auto connection = connections_.Find(absl::StrCat("fd:", fd));
  ASSERT_NE(connection, nullptr);
  EXPECT_EQ(connection->peer().pid, getpid());
  EXPECT_EQ(connection->peer().uid, geteuid());
  EXPECT_EQ(connection->peer().role, "");
  char buffer[64];
  ASSERT_EQ(recv(fd, buffer, sizeof(buffer), 0), 14);
  EXPECT_EQ(std::string(buffer, 14), "PRI * HTTP/2.0");
  EXPECT_NE(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(ListenerTest, RefusesAProcessOfAnotherUserThatTheFilesLetIn) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can be somebody else";
  Start();
  ASSERT_EQ(chmod(directory_.c_str(), 0711), 0);
  ASSERT_EQ(chmod(address_.path.c_str(), 0666), 0);
  sockaddr_un to{.sun_family = AF_UNIX};
  address_.path.copy(to.sun_path, sizeof(to.sun_path) - 1);
  const pid_t pid = fork();
  if (pid == 0) {
    constexpr uid_t kNobody = 65'534;
    if (setresuid(kNobody, kNobody, kNobody) != 0) _exit(1);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) _exit(2);
    (void)!send(fd, "P", 1, MSG_NOSIGNAL);  // it may be closed by now
    char byte;
    _exit(read(fd, &byte, 1) <= 0 ? 0 : 3);
  }
  // If it is let in, nobody ends its connection.
  while (connections_.refused_peers == 0 && connections_.size() == 0) std::this_thread::yield();
  EXPECT_EQ(connections_.refused_peers, 1u);
  EXPECT_EQ(connections_.size(), 0u);
  if (connections_.size() > 0) kill(pid, SIGKILL);
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(ListenerTest, NoticesThatAPeerHasGone) {
  Start();
  UniqueFd client = Connect();
  Send(client, "P");
  AwaitServed(1);
  EXPECT_EQ(connections_.size(), 1u);
  client.Reset();
  AwaitConnections(0);
}

TEST_F(ListenerTest, NoticesThatTheServerHasShutItDown) {
  Start();
  const UniqueFd client = Connect();
  Send(client, "P");
  const int fd = AwaitServed(1);
  shutdown(fd, SHUT_RDWR);  // as gRPC does before it closes
  AwaitConnections(0);
  AwaitEnd(client);
}

TEST_F(ListenerTest, NumbersDoNotComeBackSoon) {
  Start();
  std::set<int> numbers;
  for (size_t i = 1; i <= 100; ++i) {
    UniqueFd client = Connect();
    Send(client, "P");
    const int fd = AwaitServed(i);
    EXPECT_TRUE(numbers.insert(fd).second) << fd;
    client.Reset();
    AwaitConnections(0);
    absl::MutexLock lock(&mutex_);
    close(fd);
    served_.back() = -1;
  }
}

TEST_F(ListenerTest, ClosesAConnectionThatSpeaksNeitherProtocol) {
  Start();
  const UniqueFd client = Connect();
  Send(client, "GET / HTTP/1.1\r\n\r\n");
  AwaitEnd(client);
  EXPECT_EQ(connections_.rejected_connections, 1u);
  const UniqueFd next = Connect();
  Send(next, "P");
  AwaitServed(1);
}

TEST_F(ListenerTest, ClosesAConnectionThatSaysNothing) {
  Start(absl::Milliseconds(20));
  const UniqueFd silent = Connect();
  AwaitEnd(silent);
  EXPECT_EQ(connections_.rejected_connections, 1u);
}

TEST_F(ListenerTest, ClosesTheOldestOfTooManyThatSayNothing) {
  Start(absl::Seconds(600), 2);
  const UniqueFd first = Connect(), second = Connect(), third = Connect();
  AwaitEnd(first);
  Send(second, "P");
  Send(third, "P");
  AwaitServed(2);
}

TEST_F(ListenerTest, RefusesAProcessMoreThanItsConnectionsUntilOneEnds) {
  max_connections_ = 3;
  Start();
  UniqueFd served = Connect(), silent = Connect(), side = Connect();
  Send(served, "P");
  Send(side, kSideChannelMagic);
  AwaitServed(1);
  AwaitEnd(Connect());
  EXPECT_EQ(connections_.refused_peers, 1u);
  // Each gives its place back at its end, which is seen some time later.
  size_t count = 1;
  for (UniqueFd* each : {&served, &silent, &side}) {
    each->Reset();
    ++count;
    for (;;) {
      *each = Connect();
      (void)send(each->get(), "P", 1, MSG_NOSIGNAL);
      pollfd refused = {.fd = each->get(), .events = POLLRDHUP, .revents = 0};
      bool served_now = false;
      while (!served_now && poll(&refused, 1, 0) == 0) {
        absl::MutexLock lock(&mutex_);
        served_now = served_.size() >= count;
      }
      if (served_now) break;
    }
  }
}

TEST_F(ListenerTest, ClosesASideChannelThatDoesNotGreet) {
  Start(absl::Milliseconds(20));
  const UniqueFd channel = Connect();
  Send(channel, "RUNLOOP");
  AwaitEnd(channel);
}

TEST_F(ListenerTest, LogsJunkAtABoundedRate) {
  Start();
  for (int i = 0; i < 100; ++i) {
    const UniqueFd client = Connect();
    Send(client, "junk");
    AwaitEnd(client);
  }
  EXPECT_EQ(connections_.rejected_connections, 100u);
  absl::MutexLock lock(&mutex_);
  EXPECT_LE(log_.size(), 10u);
}

TEST_F(ListenerTest, GoesOnWhereThereAreNoDescriptorsForAWhile) {
  Start();
  const UniqueFd first = Connect();
  Send(first, "P");
  AwaitServed(1);
  UniqueFd second(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // Takes every number that there is.
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low = {.rlim_cur = 128, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  std::vector<UniqueFd> all;
  for (;;) {
    UniqueFd fd(dup(first.get()));
    if (!fd.valid()) break;
    all.push_back(std::move(fd));
  }
  sockaddr_un to{.sun_family = AF_UNIX};
  address_.path.copy(to.sun_path, sizeof(to.sun_path) - 1);
  ASSERT_EQ(connect(second.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  Send(second, "P");
  for (;;) {
    absl::MutexLock lock(&mutex_);
    if (!log_.empty()) break;
  }
  all.clear();
  setrlimit(RLIMIT_NOFILE, &before);
  AwaitServed(2);
}

TEST_F(ListenerTest, LeavesNoDescriptorOpen) {
  const uint32_t before = CountOpenFiles();
  Start();
  const UniqueFd grpc = Connect(), silent = Connect(), side = Connect();
  Send(grpc, "P");
  Send(side, kSideChannelMagic);
  AwaitServed(1);
  listener_.reset();
  AwaitEnd(silent);
  AwaitEnd(side);
  EXPECT_EQ(CountOpenFiles(), before + 3 + 1);  // the clients, and what was served
  EXPECT_EQ(connections_.size(), 0u);
}

TEST_F(ListenerTest, GivesEveryDescriptorOfAConnectionBack) {
  Start();
  const uint32_t before = CountOpenFiles();
  for (size_t i = 1; i <= 20; ++i) {
    {
      const UniqueFd grpc = Connect(), silent = Connect(), side = Connect();
      Send(grpc, "P");
      Send(side, kSideChannelMagic);
      AwaitServed(i);
    }
    absl::MutexLock lock(&mutex_);
    close(std::exchange(served_.back(), -1));
  }
  while (CountOpenFiles() != before) std::this_thread::yield();
}

TEST_F(ListenerTest, ServesWithoutAPidfdWhereOnlyOneDescriptorIsLeft) {
  Start();
  UniqueFd first = Connect();
  Send(first, "P");
  AwaitServed(1);
  UniqueFd second(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low = {.rlim_cur = 128, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  std::vector<UniqueFd> all;
  for (;;) {
    UniqueFd fd(dup(first.get()));
    if (!fd.valid()) break;
    all.push_back(std::move(fd));
  }
  // For the connection, and none for its pidfd.
  all.pop_back();
  sockaddr_un to{.sun_family = AF_UNIX};
  address_.path.copy(to.sun_path, sizeof(to.sun_path) - 1);
  ASSERT_EQ(connect(second.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  // It has the connection once it looks for another.
  for (;;) {
    absl::MutexLock lock(&mutex_);
    if (!log_.empty()) break;
  }
  all.clear();
  setrlimit(RLIMIT_NOFILE, &before);
  Send(second, "P");
  AwaitServed(2);
  EXPECT_EQ(connections_.refused_peers, 0u);
}

// A process that connects and sends `bytes`; its child holds the connection, too, and ends when it
// sees the connection's end.
class Forker {
 public:
  Forker(const Address& address, std::string_view bytes) {
    int fds[2];
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    said_.Reset(fds[0]);
    UniqueFd say(fds[1]);
    sockaddr_un to{.sun_family = AF_UNIX};
    address.path.copy(to.sun_path, sizeof(to.sun_path) - 1);
    pid_ = fork();
    if (pid_ == 0) Run(to, bytes, say.get());
    EXPECT_EQ(Said(), 'c');
  }
  ~Forker() { waitpid(pid_, nullptr, 0); }

  void Kill() { kill(pid_, SIGKILL); }

  // Blocks until the connecting process has `c`onnected, or its child has seen the `e`nd.
  char Said() {
    char byte = 0;
    return read(said_.get(), &byte, 1) == 1 ? byte : '-';
  }

 private:
  // Only what may be done after a fork of a process with threads.
  [[noreturn]] static void Run(const sockaddr_un& to, std::string_view bytes, int say) {
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) _exit(1);
    if (!bytes.empty() && write(fd, bytes.data(), bytes.size()) < 0) _exit(1);
    const pid_t child = fork();
    if (child != 0) {
      (void)!write(say, child < 0 ? "-" : "c", 1);
      for (;;) pause();
    }
    char buffer[256];
    while (read(fd, buffer, sizeof(buffer)) > 0) {
    }
    (void)!write(say, "e", 1);
    _exit(0);
  }

  UniqueFd said_;
  pid_t pid_ = -1;
};

TEST_F(ListenerTest, AConnectionEndsWithItsProcessThoughAChildHoldsIt) {
  Start();
  Forker worker(address_, "P");
  const int fd = AwaitServed(1);
  EXPECT_EQ(connections_.size(), 1u);
  worker.Kill();
  EXPECT_EQ(worker.Said(), 'e');
  AwaitConnections(0);
  // gRPC sees the end as it sees any other.
  char buffer[8];
  EXPECT_EQ(recv(fd, buffer, sizeof(buffer), 0), 1);
  EXPECT_EQ(recv(fd, buffer, sizeof(buffer), 0), 0);
  absl::MutexLock lock(&mutex_);
  ASSERT_EQ(log_.size(), 1u);
  EXPECT_THAT(log_[0], testing::HasSubstr("another process holds its socket"));
}

TEST_F(ListenerTest, SoDoesOneThatHasSaidNothingAndASideChannel) {
  Start();
  for (const std::string_view bytes : {std::string_view(), kSideChannelMagic}) {
    Forker worker(address_, bytes);
    worker.Kill();
    EXPECT_EQ(worker.Said(), 'e');
  }
  EXPECT_EQ(connections_.rejected_connections, 0u);
}

}  // namespace
}  // namespace runloop::daemon

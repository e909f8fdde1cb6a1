#include "runloop/daemon/peer_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runloop/daemon/process_info.h"

namespace runloop::daemon {
namespace {

// A process that waits until it is ended.
pid_t StartProcess() {
  const pid_t pid = fork();
  if (pid == 0) {
    for (;;) pause();
  }
  return pid;
}

void EndProcess(pid_t pid) {
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

// No socket, so that the kernel cannot name the process by it, as older ones cannot.
class PidfdByNumberTest : public ::testing::Test {
 protected:
  PidfdByNumberTest() {
    int fds[2];
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    read_.Reset(fds[0]);
    write_.Reset(fds[1]);
  }

  UniqueFd read_, write_;
};

TEST_F(PidfdByNumberTest, BecomesReadableWhenTheProcessEnds) {
  const pid_t pid = StartProcess();
  const absl::StatusOr<UniqueFd> pidfd = GetPeerPidfd(read_.get(), pid);
  ASSERT_TRUE(pidfd.ok());
  ASSERT_TRUE(pidfd->valid());
  EXPECT_NE(fcntl(pidfd->get(), F_GETFD) & FD_CLOEXEC, 0);
  pollfd ended = {.fd = pidfd->get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&ended, 1, 0), 0);
  EndProcess(pid);
  EXPECT_EQ(poll(&ended, 1, -1), 1);
}

TEST_F(PidfdByNumberTest, OfAProcessThatHasEndedThereIsNone) {
  const pid_t pid = StartProcess();
  EndProcess(pid);
  EXPECT_EQ(GetPeerPidfd(read_.get(), pid).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PidfdByNumberTest, AProcessOfAnotherNamespaceCannotBeTold) {
  const absl::StatusOr<UniqueFd> pidfd = GetPeerPidfd(read_.get(), 0);
  ASSERT_TRUE(pidfd.ok());
  EXPECT_FALSE(pidfd->valid());
}

TEST_F(PidfdByNumberTest, TellsOnceThatTheProcessHasEnded) {
  const pid_t pid = StartProcess();
  EpollLoop loop;
  ASSERT_TRUE(loop.Attach([](const DrainBudget&) { return false; }).ok());
  int times = 0;
  auto process = PeerProcess::Watch(loop, read_.get(), pid, [&] {
    ++times;
    loop.Quit();
  });
  ASSERT_TRUE(process.ok());
  ASSERT_NE(*process, nullptr);
  EndProcess(pid);
  ASSERT_TRUE(loop.Run().ok());
  EXPECT_EQ(times, 1);
  // The pidfd is readable for good, and the loop does not turn for it.
  char byte = 'x';
  ASSERT_TRUE(loop.AddFd(read_.get(), POLLIN,
                         [&](uint32_t) {
                           (void)!read(read_.get(), &byte, 1);
                           loop.Quit();
                         })
                  .ok());
  ASSERT_EQ(write(write_.get(), &byte, 1), 1);
  ASSERT_TRUE(loop.Run().ok());
  EXPECT_EQ(times, 1);
}

TEST(PeerProcessTest, IsKnownByTheSocketWhateverTheNumber) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const UniqueFd first(pair[0]), second(pair[1]);
  int pidfd = -1;
  socklen_t size = sizeof(pidfd);
  constexpr int kPeerPidfd = 77;
  if (getsockopt(first.get(), SOL_SOCKET, kPeerPidfd, &pidfd, &size) != 0) {
    GTEST_SKIP() << "this kernel has no SO_PEERPIDFD";
  }
  const UniqueFd known(pidfd);
  const pid_t pid = StartProcess();
  EndProcess(pid);
  const absl::StatusOr<UniqueFd> asked = GetPeerPidfd(first.get(), pid);
  ASSERT_TRUE(asked.ok());
  EXPECT_TRUE(asked->valid());
}

TEST(PeerProcessTest, LeavesNoDescriptorOpen) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const UniqueFd first(pair[0]), second(pair[1]);
  EpollLoop loop;
  ASSERT_TRUE(loop.Attach([](const DrainBudget&) { return false; }).ok());
  const uint32_t before = CountOpenFiles();
  for (int i = 0; i < 10; ++i) {
    const auto process = PeerProcess::Watch(loop, first.get(), getpid(), [] {});
    ASSERT_TRUE(process.ok());
    ASSERT_NE(*process, nullptr);
    EXPECT_EQ(CountOpenFiles(), before + 1);
  }
  EXPECT_EQ(CountOpenFiles(), before);
}

}  // namespace
}  // namespace runloop::daemon

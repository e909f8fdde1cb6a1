#include "runloop/daemon/listening_socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/inherited_sockets.h"

namespace runloop::daemon {
namespace {

using ::testing::HasSubstr;

class ListeningSocketTest : public ::testing::Test {
 protected:
  ListeningSocketTest() {
    char name[] = "/tmp/runloop-XXXXXX";
    directory_ = mkdtemp(name);
    address_.path = directory_ + "/deep/er/s";
  }
  ~ListeningSocketTest() override { std::filesystem::remove_all(directory_); }

  static mode_t ModeOf(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(lstat(path.c_str(), &info), 0) << path;
    return info.st_mode & 07777;
  }

  std::string directory_;
  Address address_;
};

TEST_F(ListeningSocketTest, MakesItsDirectoriesAndLetsNobodyElseIn) {
  const mode_t before = umask(0);
  const auto socket = ListeningSocket::Listen(address_);
  umask(before);
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_EQ(ModeOf(directory_ + "/deep"), 0700u);
  EXPECT_EQ(ModeOf(directory_ + "/deep/er"), 0700u);
  EXPECT_EQ(ModeOf(address_.path), 0600u);
  EXPECT_EQ(socket->name(), "unix:" + address_.path);
  EXPECT_TRUE(ConnectUnix(address_).ok());
}

TEST_F(ListeningSocketTest, LeavesNothingBehind) {
  { ASSERT_TRUE(ListeningSocket::Listen(address_).ok()); }
  EXPECT_TRUE(std::filesystem::is_empty(directory_ + "/deep/er"));
}

TEST_F(ListeningSocketTest, RefusesAPlaceWhereADaemonListens) {
  const auto first = ListeningSocket::Listen(address_);
  ASSERT_TRUE(first.ok());
  const auto second = ListeningSocket::Listen(address_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("a daemon already listens at unix:"));
  EXPECT_TRUE(ConnectUnix(address_).ok());
}

TEST_F(ListeningSocketTest, RefusesAPlaceWhereAnotherProgramListens) {
  std::filesystem::create_directories(directory_ + "/deep/er");
  const auto other = ListenUnix(address_);
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(ListeningSocket::Listen(address_).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(ConnectUnix(address_).ok());
}

TEST_F(ListeningSocketTest, ReplacesASocketThatNobodyListensOn) {
  std::filesystem::create_directories(directory_ + "/deep/er");
  { ASSERT_TRUE(ListenUnix(address_).ok()); }
  ASSERT_FALSE(ConnectUnix(address_).ok());
  const auto socket = ListeningSocket::Listen(address_);
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_TRUE(ConnectUnix(address_).ok());
}

TEST_F(ListeningSocketTest, LeavesAFileAloneThatIsNoSocket) {
  std::filesystem::create_directories(directory_ + "/deep/er");
  std::ofstream(address_.path) << "precious";
  EXPECT_EQ(ListeningSocket::Listen(address_).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(std::filesystem::file_size(address_.path), 8u);
}

TEST_F(ListeningSocketTest, RefusesADirectoryThatOthersCanWrite) {
  std::filesystem::create_directories(directory_ + "/deep/er");
  ASSERT_EQ(chmod((directory_ + "/deep/er").c_str(), 0777), 0);
  const auto socket = ListeningSocket::Listen(address_);
  EXPECT_EQ(socket.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(socket.status().message()), HasSubstr("0777"));
}

TEST_F(ListeningSocketTest, DoesNotRemoveASocketThatHasTakenItsPlace) {
  {
    const auto socket = ListeningSocket::Listen(address_);
    ASSERT_TRUE(socket.ok());
    std::filesystem::rename(address_.path, address_.path + ".old");
    std::ofstream(address_.path) << "another's";
  }
  EXPECT_TRUE(std::filesystem::exists(address_.path));
}

TEST_F(ListeningSocketTest, OfManyThatStartAtTheSameMomentOneWins) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> ready{0}, won{0}, refused{0}, done{0};
    constexpr int kThreads = 4;
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        ++ready;
        while (ready < kThreads) std::this_thread::yield();
        const auto socket = ListeningSocket::Listen(address_);
        if (socket.ok()) ++won;
        if (socket.status().code() == absl::StatusCode::kAlreadyExists) ++refused;
        ++done;
        while (done < kThreads) std::this_thread::yield();  // hold it until all have tried
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(won, 1);
    EXPECT_EQ(refused, kThreads - 1);
  }
}

TEST_F(ListeningSocketTest, AdoptsAListeningSocketAndLeavesItsFile) {
  address_.path = directory_ + "/s";
  {
    auto listening = ListenUnix(address_);
    ASSERT_TRUE(listening.ok());
    const auto socket = ListeningSocket::Adopt(listening->Release());
    ASSERT_TRUE(socket.ok()) << socket.status();
    EXPECT_EQ(socket->name(), "unix:" + address_.path);
  }
  EXPECT_TRUE(std::filesystem::exists(address_.path));
}

TEST_F(ListeningSocketTest, AdoptsNothingElse) {
  const int pair = socket(AF_UNIX, SOCK_STREAM, 0);
  EXPECT_EQ(ListeningSocket::Adopt(pair).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(fcntl(pair, F_GETFD), -1);  // closed
}

class InheritedSocketsTest : public ::testing::Test {
 protected:
  static void Set(const std::string& pid, const char* fds, const char* names) {
    setenv("LISTEN_PID", pid.c_str(), 1);
    setenv("LISTEN_FDS", fds, 1);
    if (names != nullptr) setenv("LISTEN_FDNAMES", names, 1);
  }
  static void ExpectCleaned() {
    for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) {
      EXPECT_EQ(getenv(name), nullptr) << name;
    }
  }
};

TEST_F(InheritedSocketsTest, WithoutVariablesThereAreNone) {
  EXPECT_TRUE(TakeInheritedSockets()->empty());
}

TEST_F(InheritedSocketsTest, TakesThoseOfThisProcessOnce) {
  Set(absl::StrCat(getpid()), "1", "dispatch");
  const bool was_open = fcntl(3, F_GETFD) >= 0;
  if (!was_open) {
    ASSERT_EQ(dup2(0, 3), 3);
  }
  const auto taken = TakeInheritedSockets();
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_THAT(*taken, ::testing::ElementsAre(3));
  EXPECT_NE(fcntl(3, F_GETFD) & FD_CLOEXEC, 0);
  ExpectCleaned();
  if (!was_open) close(3);
  EXPECT_TRUE(TakeInheritedSockets()->empty());
}

TEST_F(InheritedSocketsTest, LeavesThoseOfAnotherProcess) {
  Set("1", "1", nullptr);
  EXPECT_TRUE(TakeInheritedSockets()->empty());
  ExpectCleaned();
}

TEST_F(InheritedSocketsTest, RefusesVariablesThatMakeNoSense) {
  const std::string pid = absl::StrCat(getpid());
  Set(pid, "x", nullptr);
  EXPECT_FALSE(TakeInheritedSockets().ok());
  Set(pid, "-1", nullptr);
  EXPECT_FALSE(TakeInheritedSockets().ok());
  Set(pid, "1", "a:b");
  EXPECT_FALSE(TakeInheritedSockets().ok());
  Set("self", "1", nullptr);
  EXPECT_FALSE(TakeInheritedSockets().ok());
  ExpectCleaned();
}

}  // namespace
}  // namespace runloop::daemon

#include "runloop/client/socket_watch.h"

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "runloop/runtime/clock.h"

namespace runloop::internal {
namespace {

using Event = SocketWatch::Event;

class SocketWatchTest : public testing::Test {
 protected:
  SocketWatchTest() : base_("/tmp/socket-watch-XXXXXX") {
    if (mkdtemp(base_.data()) == nullptr) std::abort();
  }
  ~SocketWatchTest() override { std::filesystem::remove_all(base_); }

  static void Touch(const std::string& path) { std::ofstream(path) << "x"; }
  // What has happened already.
  static Event Poll(SocketWatch& watch) { return watch.Wait(Clock::Monotonic()->Now()); }

  std::string base_;
  EventFd wake_;
};

TEST_F(SocketWatchTest, SeesTheSocketComeBeMovedThereAndChange) {
  SocketWatch watch(base_ + "/s", wake_);
  EXPECT_FALSE(watch.armed());
  EXPECT_TRUE(watch.Arm());
  EXPECT_TRUE(watch.armed());
  EXPECT_EQ(Poll(watch), Event::kTimeout);
  Touch(base_ + "/s");
  EXPECT_EQ(watch.Wait(absl::InfiniteFuture()), Event::kChanged);
  EXPECT_EQ(Poll(watch), Event::kTimeout);
  chmod((base_ + "/s").c_str(), 0600);
  EXPECT_EQ(Poll(watch), Event::kChanged);
  Touch(base_ + "/t");
  std::filesystem::rename(base_ + "/t", base_ + "/s");
  EXPECT_EQ(Poll(watch), Event::kChanged);
  EXPECT_FALSE(watch.Arm());
}

TEST_F(SocketWatchTest, WhatIsNotTheSocketDoesNotEndAWait) {
  SocketWatch watch(base_ + "/s", wake_);
  watch.Arm();
  Touch(base_ + "/other");
  Touch(base_ + "/ss");
  EXPECT_EQ(Poll(watch), Event::kTimeout);
}

TEST_F(SocketWatchTest, AnotherThreadEndsAWait) {
  SocketWatch watch(base_ + "/s", wake_);
  watch.Arm();
  std::thread other([this] { wake_.Signal(); });
  EXPECT_EQ(watch.Wait(absl::InfiniteFuture()), Event::kWoken);
  other.join();
  EXPECT_EQ(Poll(watch), Event::kTimeout);
}

TEST_F(SocketWatchTest, WhileDirectoriesAreMissingItSeesThemComeOneByOne) {
  SocketWatch watch(base_ + "/a/b/s", wake_);
  EXPECT_TRUE(watch.Arm());
  std::filesystem::create_directory(base_ + "/x");
  EXPECT_EQ(Poll(watch), Event::kTimeout);
  for (const char* directory : {"/a", "/a/b"}) {
    std::filesystem::create_directory(base_ + directory);
    EXPECT_EQ(Poll(watch), Event::kChanged);
    EXPECT_TRUE(watch.Arm());
  }
  Touch(base_ + "/a/b/s");
  EXPECT_EQ(Poll(watch), Event::kChanged);
}

TEST_F(SocketWatchTest, ADirectoryThatIsRemovedAndMadeAgainIsWatchedAgain) {
  std::filesystem::create_directory(base_ + "/a");
  SocketWatch watch(base_ + "/a/s", wake_);
  watch.Arm();
  std::filesystem::remove(base_ + "/a");
  EXPECT_EQ(Poll(watch), Event::kChanged);
  EXPECT_TRUE(watch.Arm());
  std::filesystem::create_directory(base_ + "/a");
  EXPECT_EQ(Poll(watch), Event::kChanged);
  EXPECT_TRUE(watch.Arm());
  Touch(base_ + "/a/s");
  EXPECT_EQ(Poll(watch), Event::kChanged);
}

TEST_F(SocketWatchTest, ADirectoryThatTookTheOthersPlaceIsWatchedFromTheNextArmOn) {
  std::filesystem::create_directory(base_ + "/a");
  std::filesystem::create_directory(base_ + "/new");
  SocketWatch watch(base_ + "/a/s", wake_);
  watch.Arm();
  std::filesystem::rename(base_ + "/a", base_ + "/old");
  std::filesystem::rename(base_ + "/new", base_ + "/a");
  EXPECT_EQ(Poll(watch), Event::kChanged);
  EXPECT_TRUE(watch.Arm());
  Touch(base_ + "/old/s");
  EXPECT_EQ(Poll(watch), Event::kTimeout);
  Touch(base_ + "/a/s");
  EXPECT_EQ(Poll(watch), Event::kChanged);
}

TEST_F(SocketWatchTest, WhereNothingCanBeWatchedItStillWaits) {
  SocketWatch watch("/" + std::string(300, 'x') + "/s", wake_);
  EXPECT_FALSE(watch.Arm());
  EXPECT_FALSE(watch.armed());
  EXPECT_EQ(Poll(watch), Event::kTimeout);
  wake_.Signal();
  EXPECT_EQ(watch.Wait(absl::InfiniteFuture()), Event::kWoken);
}

}  // namespace
}  // namespace runloop::internal

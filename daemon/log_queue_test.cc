#include "runloop/daemon/log_queue.h"

#include <gmock/gmock.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace runloop::daemon {
namespace {

// What a sink has got. It blocks at its first line until it may go on.
struct Log {
  LogSink sink() {
    return [this](LogSeverity, std::string_view line) {
      {
        absl::MutexLock lock(&mutex);
        lines.emplace_back(line);
        if (lines.size() > 1) return;
      }
      blocks.Notify();
      may_go_on.WaitForNotification();
      went_on.Notify();
    };
  }
  std::vector<std::string> Lines() {
    absl::MutexLock lock(&mutex);
    return lines;
  }

  void Await(size_t count) {
    while (Lines().size() < count) std::this_thread::yield();
  }

  absl::Notification blocks, may_go_on, went_on;
  absl::Mutex mutex;
  std::vector<std::string> lines ABSL_GUARDED_BY(mutex);
};

TEST(LogQueueTest, WhoLogsDoesNotWaitAndWhatFindsNoRoomIsCounted) {
  Log log;
  LogQueue queue(log.sink());
  queue.Write(LogSeverity::kInfo, "first");
  log.blocks.WaitForNotification();
  for (int i = 0; i < 300; ++i) queue.Write(LogSeverity::kInfo, absl::StrCat("line ", i));
  log.may_go_on.Notify();
  log.Await(257);
  queue.Write(LogSeverity::kInfo, "last");
  log.Await(258);
  const std::vector<std::string> lines = log.Lines();
  ASSERT_EQ(lines.size(), 258u);
  EXPECT_EQ(lines[0], "first");
  EXPECT_EQ(lines[1], "line 0");
  EXPECT_EQ(lines[256], "line 255");
  EXPECT_EQ(lines[257], "last (44 lines before it were dropped: the log took none)");
}

TEST(LogQueueTest, WhatWasLoggedIsWrittenBeforeTheEnd) {
  Log log;
  log.may_go_on.Notify();
  {
    LogQueue queue(log.sink());
    for (int i = 0; i < 100; ++i) queue.Write(LogSeverity::kInfo, "line");
  }
  EXPECT_EQ(log.Lines().size(), 100u);
}

TEST(LogQueueTest, ASinkThatBlocksForEverDoesNotHoldUpTheEnd) {
  Log log;
  {
    LogQueue queue(log.sink());
    queue.Write(LogSeverity::kInfo, "first");
    log.blocks.WaitForNotification();
    queue.Write(LogSeverity::kInfo, "second");
  }
  EXPECT_FALSE(log.went_on.HasBeenNotified());
  log.may_go_on.Notify();
  log.went_on.WaitForNotification();
  EXPECT_THAT(log.Lines(), testing::ElementsAre("first"));
}

}  // namespace
}  // namespace runloop::daemon

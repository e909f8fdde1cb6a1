#include "runloop/daemon/session_protocol.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "runloop/runtime/core.h"
#include "runloop/runtime/external_loop.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/test_operations.h"

namespace runloop::daemon {
namespace {

constexpr size_t kKiB = 1024;

// What sessions of one user hold of outcomes for their workers, at most a MiB together.
class HeldOutcomesTest : public ::testing::Test {
 protected:
  struct Worker {
    Worker(HeldOutcomesTest& of, bool resumable, uid_t uid = 1000)
        : test(of),
          protocol(of.terms_, *of.terms_.core->OpenPeerSession({.peer = {.pid = 1, .uid = uid}}),
                   resumable) {}
    ~Worker() { protocol.End(); }

    // Has an outcome of so many bytes made.
    void Echo(size_t size) {
      test::v1::EchoRequest echo;
      echo.set_text(std::string(size, 'e'));
      v1::SessionRequest request;
      v1::Dispatch& dispatch = *request.add_dispatches();
      dispatch.set_invocation_id(++last_id);
      dispatch.set_operation_name(kEcho);
      dispatch.set_reply_wanted(true);
      *dispatch.mutable_request() = echo.SerializeAsString();
      const std::string bytes = request.SerializeAsString();
      ASSERT_TRUE(test.tools_.reader.Read(bytes).ok());
      {
        internal::RuntimeCore::Group group(*test.terms_.core, protocol.session(), absl::Now());
        ASSERT_TRUE(protocol.Handle(test.tools_, group).ok());
      }
      test.tools_.reader.Clear();
      while (test.loop_->Drain()) {
      }
      protocol.Gather(test.tools_);
    }
    // It reads all that there is.
    void Read() {
      std::string response;
      while (protocol.FillResponse(test.tools_, response)) {
      }
    }

    HeldOutcomesTest& test;
    SessionProtocol protocol;
    uint64_t last_id = 0;
  };

  HeldOutcomesTest() {
    auto owned = std::make_unique<ExternalLoop>();
    loop_ = owned.get();
    RuntimeOptions options{.loop = std::move(owned)};
    TestOperations::Register(options.operations);
    runtime_ = *Runtime::Create(std::move(options));
    terms_ = {.core = runtime_->core(),
              .max_message_bytes = int64_t{64} << 20,
              .max_unfinished = 1000,
              .max_user_outcome_bytes = 1024 * kKiB};
  }
  ~HeldOutcomesTest() override { terms_.core = nullptr; }

  ExternalLoop* loop_ = nullptr;
  std::unique_ptr<Runtime> runtime_;
  SessionTerms terms_;
  SessionTools tools_{1000};
};

TEST_F(HeldOutcomesTest, WhoHasMoreThanItsShareKeepsNoneToTellAgain) {
  Worker modest(*this, true), greedy(*this, true);
  const auto tell = [](Worker& worker, size_t size) {
    worker.Echo(size);
    worker.Read();
  };
  tell(modest, 300 * kKiB);
  tell(greedy, 300 * kKiB);
  tell(greedy, 300 * kKiB);
  EXPECT_TRUE(modest.protocol.CanResume(0));
  EXPECT_TRUE(greedy.protocol.CanResume(0));
  tell(greedy, 300 * kKiB);
  EXPECT_FALSE(greedy.protocol.CanResume(0));
  EXPECT_TRUE(greedy.protocol.CanResume(3));
  tell(modest, 100 * kKiB);
  EXPECT_TRUE(modest.protocol.CanResume(0));
  // There is room again.
  tell(greedy, 300 * kKiB);
  EXPECT_TRUE(greedy.protocol.CanResume(3));
}

TEST_F(HeldOutcomesTest, WhoHasMoreThanItsShareUnreadIsNotReadFromUntilItHasRead) {
  Worker modest(*this, false), greedy(*this, false), other(*this, false, 1001);
  modest.Echo(100 * kKiB);
  for (int i = 0; i < 2; ++i) greedy.Echo(500 * kKiB);
  for (Worker* const worker : {&modest, &greedy}) {
    EXPECT_EQ(worker->protocol.MayTakeIn(0), worker == &modest);
  }
  // Another user's are its own business.
  for (int i = 0; i < 2; ++i) other.Echo(500 * kKiB);
  EXPECT_TRUE(other.protocol.MayTakeIn(0));
  greedy.Read();
  EXPECT_TRUE(greedy.protocol.MayTakeIn(0));
}

TEST_F(HeldOutcomesTest, WhatASessionHeldIsNotCountedOnceItHasEnded) {
  Worker stays(*this, false);
  std::optional<Worker> goes(std::in_place, *this, false);
  stays.Echo(600 * kKiB);
  goes->Echo(600 * kKiB);
  EXPECT_FALSE(stays.protocol.MayTakeIn(0));
  goes.reset();
  EXPECT_TRUE(stays.protocol.MayTakeIn(0));
}

}  // namespace
}  // namespace runloop::daemon

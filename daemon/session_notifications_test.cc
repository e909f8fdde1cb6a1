#include "runloop/daemon/session_notifications.h"

#include <gtest/gtest.h>

#include <memory>
#include <string_view>
#include <utility>

#include "runloop/runtime/runtime.h"
#include "runloop/v1/session.pb.h"

namespace runloop::daemon {
namespace {

constexpr char kTopic[] = "a.B/C";
constexpr int64_t kMaxMessageBytes = int64_t{1} << 20;
// What is published.
using Message = v1::Unsubscribe;

class SessionNotificationsTest : public testing::Test {
 protected:
  SessionNotificationsTest() {
    OperationRegistry registry;
    EXPECT_TRUE(registry.RegisterTopic<Message>(kTopic).ok());
    runtime_ = *Runtime::Create(
        {.operations = std::move(registry), .log = [](LogSeverity, std::string_view) {}});
    notifications_ = std::make_unique<SessionNotifications>(
        *runtime_->core(), runtime_->core()->OpenSession({.client_name = "test"}), kMaxMessageBytes,
        [] {});
  }

  void Subscribe(uint64_t id) {
    v1::SessionRequest request;
    v1::Subscribe& subscribe = *request.add_subscribes();
    subscribe.set_subscription_id(id);
    subscribe.set_topic_name(kTopic);
    EXPECT_EQ(notifications_->Handle(request), absl::OkStatus());
  }
  void Publish() { EXPECT_EQ(runtime_->context().Publish(kTopic, Message()), absl::OkStatus()); }
  v1::SessionResponse Fill() {
    v1::SessionResponse response;
    notifications_->Fill(response);
    return response;
  }

  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<SessionNotifications> notifications_;
};

TEST_F(SessionNotificationsTest, WhatWaitedWhenItWasFinishedIsToldAndNothingMore) {
  Subscribe(1);
  Publish();
  notifications_->Finish();
  Publish();
  const v1::SessionResponse response = Fill();
  EXPECT_EQ(response.subscribe_results_size(), 1);
  EXPECT_EQ(response.notifications_size(), 1);
  EXPECT_FALSE(notifications_->has_any());
}

TEST_F(SessionNotificationsTest, WhatIsSubscribedToAfterItWasFinishedStandsAndGetsNothing) {
  notifications_->Finish();
  Subscribe(1);
  Publish();
  const v1::SessionResponse response = Fill();
  ASSERT_EQ(response.subscribe_results_size(), 1);
  EXPECT_FALSE(response.subscribe_results(0).has_status());
  EXPECT_EQ(response.notifications_size(), 0);
  EXPECT_FALSE(notifications_->has_any());
}

TEST_F(SessionNotificationsTest, AnotherConnectionBeginsAnew) {
  Subscribe(1);
  Publish();
  notifications_->Finish();
  notifications_->Restart();
  EXPECT_FALSE(notifications_->has_any());
  Subscribe(2);
  Publish();
  const v1::SessionResponse response = Fill();
  EXPECT_EQ(response.subscribe_results_size(), 1);
  ASSERT_EQ(response.notifications_size(), 1);
  EXPECT_EQ(response.notifications(0).subscription_id(), 2u);
  EXPECT_EQ(response.notifications(0).sequence(), 1u);
}

}  // namespace
}  // namespace runloop::daemon

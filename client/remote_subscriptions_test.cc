#include "runloop/client/remote_subscriptions.h"

#include <memory>
#include <string>
#include <vector>

#include "grpcpp/support/proto_buffer_reader.h"
#include "gtest/gtest.h"
#include "runloop/client/open_session.h"
#include "runloop/runtime/error.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {
namespace {

// The message type of topics here.
using Message = v1::Subscribe;

class RemoteSubscriptionsTest : public testing::Test {
 protected:
  RemoteSubscriptionsTest() {
    welcome_.set_session_id("s1");
    welcome_.set_resume_token("token");
    for (int i = 0; i < kTopics; ++i) {
      v1::TopicId& topic = *welcome_.add_topics();
      topic.set_id(static_cast<uint32_t>(i) + 1);
      topic.set_name(NameOf(i));
      topic.set_message_type(Message::descriptor()->full_name());
    }
  }

  static std::string NameOf(int topic) { return "a.B/T" + std::to_string(topic); }

  std::shared_ptr<RemoteSubscription> Subscribe(int topic, OpenSession* session) {
    auto subscription =
        RemoteSubscription::New({.topic = NameOf(topic), .type = Message::descriptor()}, {});
    EXPECT_EQ(subscriptions_.Add(subscription, session), absl::OkStatus());
    return subscription;
  }

  // The ids of the topics that are asked for next.
  static std::vector<uint32_t> Asked(OpenSession& session) {
    std::vector<uint32_t> topics;
    while (std::optional<OpenSession::Outgoing> outgoing = session.NextOutgoing()) {
      grpc::ByteBuffer bytes = outgoing->message->Share();
      session.Sent(false);
      session.Written();
      grpc::ProtoBufferReader reader(&bytes);
      v1::SessionRequest request;
      EXPECT_TRUE(request.ParseFromZeroCopyStream(&reader));
      for (const v1::Subscribe& subscribe : request.subscribes()) {
        topics.push_back(subscribe.topic_id());
      }
    }
    return topics;
  }

  static constexpr int kTopics = 20;
  v1::Welcome welcome_;
  RemoteSubscriptions subscriptions_;
};

TEST_F(RemoteSubscriptionsTest, WhatWasAskedForIsAskedForAgainInItsOrder) {
  OpenSession session(welcome_);
  subscriptions_.BeginSession(welcome_, session);
  std::vector<std::shared_ptr<RemoteSubscription>> all;
  std::vector<uint32_t> order;
  for (int topic = kTopics - 1; topic >= 0; --topic) {
    all.push_back(Subscribe(topic, &session));
    order.push_back(static_cast<uint32_t>(topic) + 1);
  }
  EXPECT_EQ(Asked(session), order);

  subscriptions_.EndSession();
  ASSERT_EQ(session.Resume(welcome_), absl::OkStatus());
  welcome_.set_resumed(true);
  subscriptions_.BeginSession(welcome_, session);
  EXPECT_EQ(Asked(session), order);
}

TEST_F(RemoteSubscriptionsTest, WhereFewerAreAllowedTheFirstOnesStand) {
  constexpr size_t kAllowed = 3;
  std::vector<std::shared_ptr<RemoteSubscription>> all;
  for (int topic = 0; topic < kTopics; ++topic) all.push_back(Subscribe(topic, nullptr));
  welcome_.mutable_limits()->set_max_subscriptions(kAllowed);
  OpenSession session(welcome_);
  subscriptions_.BeginSession(welcome_, session);
  for (size_t i = 0; i < all.size(); ++i) {
    const absl::Status status = all[i]->status();
    EXPECT_EQ(status.ok(), i < kAllowed) << i << ": " << status;
    if (status.ok()) continue;
    EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_SUBSCRIPTIONS_FULL);
  }
}

}  // namespace
}  // namespace runloop::internal

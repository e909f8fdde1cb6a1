#ifndef RUNLOOP_CLIENT_CONNECT_FIXTURE_H_
#define RUNLOOP_CLIENT_CONNECT_FIXTURE_H_

#include <string>
#include <utility>

#include "google/protobuf/wrappers.pb.h"
#include "gtest/gtest.h"
#include "runloop/client/connect.h"
#include "runloop/client/scripted_daemon.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {

inline google::protobuf::StringValue Text(std::string text) {
  google::protobuf::StringValue value;
  value.set_value(std::move(text));
  return value;
}

inline v1::SessionResponse Succeeded(uint64_t watermark) {
  v1::SessionResponse response;
  response.mutable_succeeded()->set_watermark(watermark);
  return response;
}

inline v1::SessionResponse ReplyTo(uint64_t id, const std::string& text) {
  v1::SessionResponse response;
  v1::Outcome& outcome = *response.add_outcomes();
  outcome.set_invocation_id(id);
  outcome.set_reply(Text(text).SerializeAsString());
  return response;
}

inline v1::SessionResponse ErrorTo(uint64_t id, const absl::Status& status) {
  v1::SessionResponse response;
  v1::Outcome& outcome = *response.add_outcomes();
  outcome.set_invocation_id(id);
  *outcome.mutable_status() = ToProto(status);
  return response;
}

class ConnectTest : public testing::Test {
 protected:
  ConnectTest() { daemon_.Start(); }

  // The word of the daemon on what was given up is waited for, however long it takes.
  ConnectOptions Options() const {
    return {.address = daemon_.address(),
            .client_name = "test",
            .internal = {.give_up_grace = absl::InfiniteDuration()}};
  }
  RuntimeContext Context() const { return Context(Options()); }
  static RuntimeContext Context(const ConnectOptions& options) {
    absl::StatusOr<RuntimeContext> context = Connect(options);
    EXPECT_TRUE(context.ok()) << context.status();
    return *std::move(context);
  }

  // Ends a session whose contexts are about to go, so that closing does not wait.
  void EndSession() { daemon_.Leave(); }

  static v1::SessionResponse Welcome(uint64_t max_message_bytes, uint64_t max_unfinished) {
    v1::SessionResponse response;
    response.mutable_welcome()->set_version(1);
    response.mutable_welcome()->mutable_limits()->set_max_message_bytes(max_message_bytes);
    response.mutable_welcome()->mutable_limits()->set_max_unfinished(max_unfinished);
    return response;
  }

  // What a peer that breaks the rules with `message` brings upon an invocation of id 1 that was
  // sent.
  absl::Status OutcomeAfter(const v1::SessionResponse& message) {
    const RuntimeContext context = Context();
    const Invocation invocation =
        context.DispatchAsync<google::protobuf::StringValue>("a.B/C", Text(""));
    EXPECT_TRUE(daemon_.Next().has_value());
    daemon_.Send(message);
    return invocation.Await();
  }

  ScriptedDaemon daemon_;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_CONNECT_FIXTURE_H_

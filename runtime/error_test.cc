#include "runloop/runtime/error.h"

#include <gtest/gtest.h>

namespace runloop {
namespace {

TEST(ErrorTest, AReasonSurvivesTheWayThroughAMessage) {
  const absl::Status error = MakeError(absl::StatusCode::kResourceExhausted,
                                       v1::ERROR_REASON_QUEUE_FULL, "full", {{"limit", "7"}});
  EXPECT_EQ(ReasonOf(error), v1::ERROR_REASON_QUEUE_FULL);
  const v1::Status proto = ToProto(error);
  ASSERT_EQ(proto.details_size(), 1);
  EXPECT_EQ(proto.details(0).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
  v1::ErrorInfo info;
  ASSERT_TRUE(info.ParseFromString(proto.details(0).value()));
  EXPECT_EQ(info.reason(), "QUEUE_FULL");
  EXPECT_EQ(info.domain(), "runloop");
  EXPECT_EQ(info.metadata().at("limit"), "7");
  EXPECT_EQ(FromProto(proto), error);
}

TEST(ErrorTest, AStatusWithoutAReasonHasNone) {
  EXPECT_EQ(ReasonOf(absl::OkStatus()), v1::ERROR_REASON_UNSPECIFIED);
  EXPECT_EQ(ReasonOf(absl::InternalError("x")), v1::ERROR_REASON_UNSPECIFIED);
}

TEST(ErrorTest, TextThatIsNoUtf8IsReplacedByteByByte) {
  EXPECT_EQ(ToProto(absl::InternalError("a\xff\xc3\xa9\xc3z\xed\xa0\x80")).message(),
            "a?\xc3\xa9?z???");
}

TEST(ErrorTest, WhatAPeerClaimsIsBounded) {
  v1::Status proto;
  proto.set_code(99);
  EXPECT_EQ(FromProto(proto).code(), absl::StatusCode::kUnknown);
  proto.set_code(0);
  EXPECT_TRUE(FromProto(proto).ok());
  proto.set_message("not so ok");
  EXPECT_FALSE(FromProto(proto).ok());
  proto.set_code(13);
  for (int i = 0; i < 100; ++i) {
    proto.add_details()->set_type_url("url" + std::to_string(i));
    proto.mutable_details(i)->set_value(std::string(i == 0 ? 1 << 20 : 1, 'x'));
  }
  int payloads = 0;
  FromProto(proto).ForEachPayload([&](absl::string_view, const absl::Cord& payload) {
    ++payloads;
    EXPECT_LE(payload.size(), 8192u);
  });
  EXPECT_LE(payloads, 8);
}

}  // namespace
}  // namespace runloop

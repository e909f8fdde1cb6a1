#include "runloop/ipc/status_codec.h"

#include <string>

#include "gtest/gtest.h"
#include "runloop/runtime/error.h"
#include "runloop/v1/status.pb.h"

namespace runloop {
namespace {

TEST(StatusCodecTest, TheReasonSurvivesTheRoundTrip) {
  const absl::Status status = MakeError(absl::StatusCode::kResourceExhausted,
                                        v1::ERROR_REASON_QUEUE_FULL, "full", {{"limit", "7"}});
  const grpc::Status sent = ToGrpcStatus(status);
  EXPECT_EQ(sent.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(sent.error_message(), "full");
  const absl::Status received = FromGrpcStatus(sent);
  EXPECT_EQ(received, status);
  EXPECT_EQ(ReasonOf(received), v1::ERROR_REASON_QUEUE_FULL);
}

TEST(StatusCodecTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(StatusCodecTest, AStatusWithoutReasonTravelsWithoutDetails) {
  const grpc::Status sent = ToGrpcStatus(absl::NotFoundError("gone"));
  EXPECT_EQ(sent.error_details(), "");
  EXPECT_EQ(FromGrpcStatus(sent), absl::NotFoundError("gone"));
}

TEST(StatusCodecTest, ALongMessageIsCutBetweenCharacters) {
  std::string text = "x";
  while (text.size() < 4000) text += "ä";
  const grpc::Status sent =
      ToGrpcStatus(MakeError(absl::StatusCode::kInternal, v1::ERROR_REASON_HANDLER_THREW, text));
  EXPECT_LE(sent.error_message().size(), 1024u);
  EXPECT_TRUE(sent.error_message().ends_with("ä..."));
  EXPECT_EQ(ReasonOf(FromGrpcStatus(sent)), v1::ERROR_REASON_HANDLER_THREW);
}

TEST(StatusCodecTest, DetailsThatDoNotFitAreLeftOut) {
  const grpc::Status sent =
      ToGrpcStatus(MakeError(absl::StatusCode::kInternal, v1::ERROR_REASON_HANDLER_THREW, "text",
                             {{"operation", std::string(5000, 'x')}}));
  EXPECT_EQ(sent.error_details(), "");
  EXPECT_EQ(sent.error_message(), "text");
}

TEST(StatusCodecTest, DetailsThatContradictOrDoNotParseAreIgnored) {
  v1::Status other;
  other.set_code(static_cast<int>(absl::StatusCode::kNotFound));
  other.set_message("a lie");
  other.add_details()->set_type_url("type.googleapis.com/google.rpc.ErrorInfo");
  for (const std::string& details : {other.SerializeAsString(), std::string("\xFF\xFF")}) {
    const absl::Status received =
        FromGrpcStatus(grpc::Status(grpc::StatusCode::ABORTED, "the truth", details));
    EXPECT_EQ(received, absl::AbortedError("the truth"));
  }
}

}  // namespace
}  // namespace runloop

#include "runloop/ipc/side_channel_frame.h"

#include <string>

#include "gtest/gtest.h"
#include "runloop/v1/side_channel.pb.h"

namespace runloop {
namespace {

std::string FrameOf(const std::string& role) {
  v1::SideChannelRequest request;
  request.mutable_add_role_socket()->set_role(role);
  return *EncodeSideChannelFrame(request);
}

TEST(SideChannelFrameTest, AMessageComesBackByteByByte) {
  SideChannelDecoder decoder;
  const std::string frame = FrameOf("worker");
  for (size_t i = 0; i + 1 < frame.size(); ++i) {
    decoder.Append(frame.substr(i, 1));
    EXPECT_TRUE(decoder.in_frame());
    EXPECT_EQ(*decoder.Next(), std::nullopt);
  }
  decoder.Append(frame.substr(frame.size() - 1));
  v1::SideChannelRequest request;
  ASSERT_TRUE(request.ParseFromString(**decoder.Next()));
  EXPECT_EQ(request.add_role_socket().role(), "worker");
  EXPECT_FALSE(decoder.in_frame());
  EXPECT_EQ(*decoder.Next(), std::nullopt);
}

TEST(SideChannelFrameTest, SeveralMessagesInOneReadComeOutInOrder) {
  SideChannelDecoder decoder;
  decoder.Append(FrameOf("a") + FrameOf("b") + std::string(4, '\0') + FrameOf("c").substr(0, 5));
  for (const char* role : {"a", "b"}) {
    v1::SideChannelRequest request;
    ASSERT_TRUE(request.ParseFromString(**decoder.Next()));
    EXPECT_EQ(request.add_role_socket().role(), role);
  }
  EXPECT_EQ(**decoder.Next(), "");
  EXPECT_EQ(*decoder.Next(), std::nullopt);
  decoder.Append(FrameOf("c").substr(5));
  EXPECT_TRUE(decoder.Next()->has_value());
}

TEST(SideChannelFrameTest, ALengthAboveTheBoundIsRefusedBeforeItsBytesCome) {
  SideChannelDecoder decoder;
  decoder.Append(std::string_view("\x01\x00\x01\x00", 4));  // 65,537
  EXPECT_EQ(decoder.Next().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(decoder.Next().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SideChannelFrameTest, TheLargestMessagePassesAndALargerOneIsNotEncoded) {
  v1::SideChannelResponse response;
  response.mutable_status()->set_message(std::string(kMaxSideChannelMessage - 8, 'x'));
  ASSERT_EQ(response.ByteSizeLong(), kMaxSideChannelMessage);
  SideChannelDecoder decoder;
  decoder.Append(*EncodeSideChannelFrame(response));
  EXPECT_EQ((**decoder.Next()).size(), kMaxSideChannelMessage);

  response.mutable_status()->mutable_message()->push_back('x');
  EXPECT_EQ(EncodeSideChannelFrame(response).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace runloop

#include "runloop/client/request_writer.h"

#include <string>

#include "grpcpp/support/proto_buffer_reader.h"
#include "gtest/gtest.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {
namespace {

v1::SessionRequest Parse(RequestWriter writer) {
  grpc::ByteBuffer bytes = writer.Share();
  grpc::ProtoBufferReader reader(&bytes);
  v1::SessionRequest request;
  EXPECT_TRUE(request.ParseFromZeroCopyStream(&reader));
  return request;
}

TEST(RequestWriterTest, ADispatchIsWhatProtobufReads) {
  RequestWriter writer;
  writer.AddDispatch({.invocation_id = 300,
                      .operation_name = "a.B/C",
                      .timeout = absl::Seconds(2) + absl::Nanoseconds(7),
                      .reply_wanted = true,
                      .call_site_id = 200,
                      .coalesce_key = "größe",
                      .request = grpc::Slice("hello")});
  const v1::SessionRequest request = Parse(std::move(writer));
  ASSERT_EQ(request.dispatches_size(), 1);
  const v1::Dispatch& dispatch = request.dispatches(0);
  EXPECT_EQ(dispatch.invocation_id(), 300u);
  EXPECT_EQ(dispatch.operation_name(), "a.B/C");
  EXPECT_EQ(dispatch.timeout().seconds(), 2);
  EXPECT_EQ(dispatch.timeout().nanos(), 7);
  EXPECT_TRUE(dispatch.reply_wanted());
  EXPECT_EQ(dispatch.call_site_id(), 200u);
  EXPECT_EQ(dispatch.coalesce_key(), "größe");
  EXPECT_EQ(dispatch.request(), "hello");
}

TEST(RequestWriterTest, AnIdTakesTheNamesPlaceAndWhatIsNotSetIsNotSent) {
  RequestWriter writer;
  writer.AddDispatch({.invocation_id = 1, .operation_id = 200, .operation_name = "a.B/C"});
  const v1::SessionRequest request = Parse(std::move(writer));
  EXPECT_EQ(request.dispatches(0).operation_id(), 200u);
  EXPECT_FALSE(request.dispatches(0).has_timeout());
  EXPECT_FALSE(request.dispatches(0).reply_wanted());
  EXPECT_EQ(request.dispatches(0).call_site_id(), 0u);
  EXPECT_EQ(request.dispatches(0).coalesce_key(), "");
  EXPECT_EQ(request.dispatches(0).request(), "");
}

TEST(RequestWriterTest, ATimeoutTooShortToSayIsStillOneAndOneTooLongIsNone) {
  RequestWriter writer;
  writer.AddDispatch({.invocation_id = 1, .operation_id = 1, .timeout = absl::Nanoseconds(1) / 4});
  writer.AddDispatch(
      {.invocation_id = 2, .operation_id = 1, .timeout = absl::Hours(24 * 365 * 20000LL)});
  const v1::SessionRequest request = Parse(std::move(writer));
  EXPECT_EQ(request.dispatches(0).timeout().nanos(), 1);
  EXPECT_FALSE(request.dispatches(1).has_timeout());
}

TEST(RequestWriterTest, SmallAndLargeRequestsAndCancelsKeepTheirOrder) {
  RequestWriter writer;
  const std::string large(10'000, 'x');
  size_t size = 0;
  for (uint64_t id = 1; id <= 20; ++id) {
    const RequestWriter::Dispatch dispatch{
        .invocation_id = id,
        .operation_id = 5,
        .batch_size = static_cast<uint32_t>(id % 2 * 200),
        .stop_at_failure = id % 4 == 1,
        .coalesce_key = id % 2 == 0 ? "" : std::string(id * 6, 'k'),
        .request = id % 3 == 0 ? grpc::Slice(large) : grpc::Slice(std::to_string(id))};
    size += RequestWriter::SizeOf(dispatch);
    writer.AddDispatch(dispatch);
    EXPECT_EQ(writer.size(), size);
  }
  writer.AddCancel(7);
  writer.AddCancel(1000, /*give_up=*/true);
  EXPECT_EQ(writer.cancels(), 2u);
  EXPECT_EQ(writer.last_id(), 20u);
  const size_t total = writer.size();
  const v1::SessionRequest request = Parse(std::move(writer));
  EXPECT_EQ(request.ByteSizeLong(), total);
  ASSERT_EQ(request.dispatches_size(), 20);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(request.dispatches(i).invocation_id(), static_cast<uint64_t>(i + 1));
    EXPECT_EQ(request.dispatches(i).coalesce_key().size(), i % 2 == 0 ? (i + 1) * 6u : 0u);
    EXPECT_EQ(request.dispatches(i).batch_size(), i % 2 == 0 ? 200u : 0u);
    EXPECT_EQ(request.dispatches(i).stop_at_failure(), i % 4 == 0);
    EXPECT_EQ(request.dispatches(i).request(), (i + 1) % 3 == 0 ? large : std::to_string(i + 1));
  }
  ASSERT_EQ(request.cancels_size(), 2);
  EXPECT_EQ(request.cancels(0).invocation_id(), 7u);
  EXPECT_FALSE(request.cancels(0).give_up());
  EXPECT_TRUE(request.cancels(1).give_up());
  EXPECT_EQ(request.cancels(1).invocation_id(), 1000u);
}

TEST(RequestWriterTest, ARequestIsTheSameBytesWhetherItIsAMessageOrASlice) {
  RequestWriter writer;
  size_t size = 0;
  for (const size_t bytes : {0, 10, 5000}) {
    v1::Dispatch message;
    message.set_request(std::string(bytes, 'y'));
    for (const bool own : {false, true}) {
      RequestWriter::Dispatch dispatch{.invocation_id = 1, .operation_id = 1};
      dispatch.SetRequest(message);
      if (own) dispatch.OwnRequest();
      EXPECT_EQ(dispatch.request_size(), message.ByteSizeLong());
      size += RequestWriter::SizeOf(dispatch);
      writer.AddDispatch(dispatch);
    }
  }
  EXPECT_EQ(writer.size(), size);
  const v1::SessionRequest request = Parse(std::move(writer));
  ASSERT_EQ(request.dispatches_size(), 6);
  for (int i = 0; i < 6; ++i) {
    v1::Dispatch message;
    ASSERT_TRUE(message.ParseFromString(request.dispatches(i).request()));
    EXPECT_EQ(message.request().size(), i < 2 ? 0u : i < 4 ? 10u : 5000u);
  }
}

TEST(RequestWriterTest, AMessageIsSerializedToTheSliceThatItIsSentFrom) {
  v1::Dispatch message;
  message.set_request(std::string(100, 'y'));
  const grpc::Slice slice = SerializeToSlice(message);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(slice.begin()), slice.size()),
            message.SerializeAsString());
  EXPECT_EQ(SerializeToSlice(v1::Dispatch()).size(), 0u);
}

}  // namespace
}  // namespace runloop::internal

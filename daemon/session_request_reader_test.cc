#include "runloop/daemon/session_request_reader.h"

#include <cstdint>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runloop/daemon/testing/session_request_check.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

constexpr int64_t kMaxUnfinished = 1000;

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  uint32_t Below(uint32_t bound) { return engine_() % bound; }
  bool OneIn(uint32_t n) { return Below(n) == 0; }
  // Of any length as a varint.
  uint64_t Number() { return ((uint64_t{engine_()} << 32) | engine_()) >> Below(64); }
  std::string Bytes(uint32_t most) {
    std::string bytes(Below(most + 1), '\0');
    for (char& byte : bytes) byte = static_cast<char>(engine_());
    return bytes;
  }
  std::string Text(uint32_t most) { return std::string(Below(most + 1), 'x'); }

 private:
  std::mt19937 engine_;
};

v1::SessionRequest RandomRequest(Random& random) {
  v1::SessionRequest request;
  if (random.OneIn(20)) request.mutable_hello()->set_client_name(random.Text(5));
  for (uint32_t i = random.Below(5); i > 0; --i) {
    v1::Dispatch& dispatch = *request.add_dispatches();
    dispatch.set_invocation_id(random.Number());
    if (!random.OneIn(20)) dispatch.set_operation_id(static_cast<uint32_t>(random.Number()));
    if (random.OneIn(20)) dispatch.set_operation_name(random.Text(8));
    dispatch.set_request(random.Bytes(200));
    if (random.OneIn(3)) {
      dispatch.mutable_timeout()->set_seconds(static_cast<int64_t>(random.Number()));
      if (random.OneIn(2)) dispatch.mutable_timeout()->set_nanos(int32_t(random.Number()));
    }
    dispatch.set_reply_wanted(random.OneIn(2));
    if (random.OneIn(20)) dispatch.add_chain()->set_runtime_id(random.Text(8));
    if (random.OneIn(20)) dispatch.set_coalesce_key(random.Text(8));
    if (random.OneIn(2)) dispatch.set_call_site_id(static_cast<uint32_t>(random.Number()));
    if (random.OneIn(20)) dispatch.set_trace_parent(random.Text(8));
    if (random.OneIn(4)) dispatch.set_batch_size(static_cast<uint32_t>(random.Number()));
    if (random.OneIn(4)) dispatch.set_stop_at_failure(true);
  }
  for (uint32_t i = random.OneIn(4) ? random.Below(4) : 0; i > 0; --i) {
    request.add_cancels()->set_invocation_id(random.Number());
  }
  if (random.OneIn(10)) request.add_waiting()->set_invocation_id(random.Number());
  if (random.OneIn(10)) request.set_outcomes_received(random.Number());
  if (random.OneIn(10)) request.add_call_sites()->set_file(random.Text(8));
  return request;
}

TEST(SessionRequestReaderTest, ReadsWhatProtobufReads) {
  SessionRequestReader reader(kMaxUnfinished);
  for (uint32_t seed = 0; seed < 20'000; ++seed) {
    Random random(seed);
    const std::string bytes = RandomRequest(random).SerializeAsString();
    ASSERT_EQ(Disagreement(reader, bytes, 1 + random.Below(300)), "") << "seed " << seed;
  }
}

// Two encodings one after the other are one of both, in which fields come again.
TEST(SessionRequestReaderTest, ReadsFieldsThatComeAgainAsProtobufDoes) {
  SessionRequestReader reader(kMaxUnfinished);
  for (uint32_t seed = 0; seed < 5'000; ++seed) {
    Random random(seed);
    v1::SessionRequest once = RandomRequest(random), again = RandomRequest(random);
    v1::SessionRequest both;
    std::string dispatch;
    if (once.dispatches_size() > 0) dispatch += once.dispatches(0).SerializeAsString();
    if (again.dispatches_size() > 0) dispatch += again.dispatches(0).SerializeAsString();
    // Of field 2.
    const std::string bytes =
        once.SerializeAsString() + "\x12" + static_cast<char>(0x80 | (dispatch.size() & 0x7F)) +
        static_cast<char>(dispatch.size() >> 7) + dispatch + again.SerializeAsString();
    ASSERT_EQ(Disagreement(reader, bytes, bytes.size()), "") << "seed " << seed;
  }
}

TEST(SessionRequestReaderTest, RefusesWhatProtobufRefuses) {
  SessionRequestReader reader(kMaxUnfinished);
  for (uint32_t seed = 0; seed < 50'000; ++seed) {
    Random random(seed);
    std::string bytes = RandomRequest(random).SerializeAsString();
    for (uint32_t changes = 1 + random.Below(3); changes > 0 && !bytes.empty(); --changes) {
      const uint32_t at = random.Below(static_cast<uint32_t>(bytes.size()));
      switch (random.Below(4)) {
        case 0:
          bytes[at] = static_cast<char>(random.Below(256));
          break;
        case 1:
          bytes.resize(at);
          break;
        case 2:
          bytes.insert(at, random.Bytes(3));
          break;
        default:
          bytes.erase(at, 1 + random.Below(4));
      }
    }
    ASSERT_EQ(Disagreement(reader, bytes, 1 + random.Below(300)), "") << "seed " << seed;
  }
}

TEST(SessionRequestReaderTest, ReadsSimpleDispatchesWhereTheyLie) {
  v1::SessionRequest request;
  for (uint64_t id = 1; id <= 3; ++id) {
    v1::Dispatch& dispatch = *request.add_dispatches();
    dispatch.set_invocation_id(id);
    dispatch.set_operation_id(7);
    dispatch.mutable_timeout()->set_seconds(2);
    dispatch.set_request("hello");
    dispatch.set_call_site_id(3);
    dispatch.set_batch_size(id == 1 ? 3 : 0);
    dispatch.set_stop_at_failure(id == 1);
  }
  request.add_call_sites()->set_id(3);
  request.add_cancels()->set_invocation_id(2);
  SessionRequestReader reader(kMaxUnfinished);
  const std::string bytes = request.SerializeAsString();
  grpc::ByteBuffer buffer = InSlices(bytes, bytes.size());
  ASSERT_TRUE(reader.Read(buffer).ok());
  ASSERT_EQ(reader.dispatches().size(), 3u);
  EXPECT_EQ(reader.dispatches()[2].message, nullptr);
  EXPECT_EQ(reader.dispatches()[2].call_site_id, 3u);
  EXPECT_EQ(reader.dispatches()[0].batch_size, 3u);
  EXPECT_TRUE(reader.dispatches()[0].stop_at_failure);
  EXPECT_EQ(reader.rest().call_sites_size(), 1);
  EXPECT_EQ(reader.rest().cancels_size(), 1);
  EXPECT_EQ(reader.rest().dispatches_size(), 0);
}

// Each is 4 bytes long, and takes a hundred once it is read.
TEST(SessionRequestReaderTest, BoundsHowManySimpleDispatchesAMessageHolds) {
  const auto read = [](int64_t count) {
    std::string bytes;
    for (int64_t i = 0; i < count; ++i) bytes += std::string("\x12\x02\x10\x01", 4);
    SessionRequestReader reader(kMaxUnfinished);
    grpc::ByteBuffer buffer = InSlices(bytes, bytes.size());
    return reader.Read(buffer);
  };
  EXPECT_TRUE(read(2 * kMaxUnfinished).ok());
  EXPECT_EQ(ReasonOf(read(2 * kMaxUnfinished + 1)), v1::ERROR_REASON_PROTOCOL_VIOLATION);
}

// By protobuf, of each kind for itself.
TEST(SessionRequestReaderTest, BoundsHowManyOfEachKindAMessageHolds) {
  using Add = void (*)(v1::SessionRequest&);
  const std::pair<const char*, Add> kinds[] = {
      {"dispatches", [](v1::SessionRequest& request) { request.add_dispatches(); }},
      {"cancels", [](v1::SessionRequest& request) { request.add_cancels(); }},
      {"waiting", [](v1::SessionRequest& request) { request.add_waiting(); }},
      {"call sites", [](v1::SessionRequest& request) { request.add_call_sites(); }},
      {"subscribes", [](v1::SessionRequest& request) { request.add_subscribes(); }},
      {"unsubscribes", [](v1::SessionRequest& request) { request.add_unsubscribes(); }},
  };
  SessionRequestReader reader(kMaxUnfinished);
  v1::SessionRequest all;
  for (const auto& [kind, add] : kinds) {
    v1::SessionRequest request;
    for (int64_t i = 0; i < 2 * kMaxUnfinished; ++i) {
      add(request);
      if (i % 2 == 0) add(all);
    }
    EXPECT_EQ(reader.Read(request.SerializeAsString()), absl::OkStatus()) << kind;
    add(request);
    const absl::Status refused = reader.Read(request.SerializeAsString());
    EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_PROTOCOL_VIOLATION) << kind;
    EXPECT_THAT(std::string(refused.message()),
                testing::HasSubstr(absl::StrCat(2 * kMaxUnfinished + 1, " ", kind)));
  }
  // Together they may be more than one of them.
  EXPECT_EQ(reader.Read(all.SerializeAsString()), absl::OkStatus());
}

}  // namespace
}  // namespace runloop::daemon

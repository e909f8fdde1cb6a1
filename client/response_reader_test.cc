#include "runloop/client/response_reader.h"

#include <gtest/gtest.h>

#include <string>

namespace runloop::internal {
namespace {

v1::SessionResponse LoneReply(uint64_t id, const std::string& reply) {
  v1::SessionResponse message;
  v1::Outcome& outcome = *message.add_outcomes();
  outcome.set_invocation_id(id);
  outcome.set_reply(reply);
  return message;
}

TEST(ResponseReaderTest, ReadsALoneReplyAsTheParserDoes) {
  v1::SessionResponse read;
  for (const uint64_t id : {uint64_t{1}, uint64_t{300}, uint64_t{1} << 62}) {
    for (const size_t size : {0, 1, 127, 128, 70'000}) {
      const std::string bytes = LoneReply(id, std::string(size, 'r')).SerializeAsString();
      ASSERT_TRUE(ReadLoneReply(bytes, read)) << id << ", " << size;
      EXPECT_EQ(read.SerializeAsString(), bytes);
    }
  }
}

TEST(ResponseReaderTest, LeavesTheRestToTheParser) {
  const v1::SessionResponse lone = LoneReply(7, "reply");
  v1::SessionResponse two = lone, ranges = lone, draining = lone, error = lone, nameless = lone;
  *two.add_outcomes() = lone.outcomes(0);
  ranges.mutable_succeeded()->set_watermark(3);
  draining.mutable_draining();
  error.mutable_outcomes(0)->mutable_status()->set_code(5);
  nameless.mutable_outcomes(0)->clear_invocation_id();
  v1::SessionResponse read;
  for (const v1::SessionResponse& other :
       {v1::SessionResponse(), two, ranges, draining, error, nameless}) {
    EXPECT_FALSE(ReadLoneReply(other.SerializeAsString(), read)) << other.ShortDebugString();
  }
}

TEST(ResponseReaderTest, SaysOfWhateverItReadsWhatTheParserSays) {
  const auto check = [](const std::string& bytes) {
    v1::SessionResponse read, parsed;
    if (!ReadLoneReply(bytes, read)) return;
    ASSERT_TRUE(parsed.ParseFromString(bytes));
    EXPECT_EQ(read.SerializeAsString(), parsed.SerializeAsString());
  };
  for (const uint64_t id : {uint64_t{7}, uint64_t{300}, ~uint64_t{0}}) {
    const std::string bytes = LoneReply(id, "reply").SerializeAsString();
    for (size_t at = 0; at < bytes.size(); ++at) {
      v1::SessionResponse read;
      EXPECT_FALSE(ReadLoneReply(bytes.substr(0, at), read)) << at;
      for (int value = 0; value < 256; ++value) {
        std::string changed = bytes;
        changed[at] = static_cast<char>(value);
        check(changed);
        changed = bytes;
        changed.insert(at, 1, static_cast<char>(value));
        check(changed);
      }
    }
    v1::SessionResponse read;
    EXPECT_FALSE(ReadLoneReply(bytes + '\0', read));
  }
}

}  // namespace
}  // namespace runloop::internal

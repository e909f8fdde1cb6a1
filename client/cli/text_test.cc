#include "runloop/client/cli/text.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace runloop::cli {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(TextTest, WhatAPeerChoseCannotSteerTheTerminal) {
  EXPECT_EQ(Printable("a\x1B[2Jb\nc\x7F"), "a?[2Jb c?");
  EXPECT_EQ(Printable("Rekörder €"), "Rekörder €");
  EXPECT_EQ(Printable("a\xC2\x9B"
                      "2Jb\xC2\x80\xC2\xA0"),
            "a?2Jb?\xC2\xA0");
  EXPECT_EQ(Printable("a\x9B"
                      "2J"),
            "a?2J");
}

TEST(TextTest, DurationsHaveAFewDigits) {
  EXPECT_EQ(HumanDuration(absl::ZeroDuration()), "0");
  EXPECT_EQ(HumanDuration(absl::Nanoseconds(999)), "999ns");
  EXPECT_EQ(HumanDuration(absl::Nanoseconds(12'345)), "12.3us");
  EXPECT_EQ(HumanDuration(absl::Microseconds(1'250)), "1.25ms");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(192'700)), "3m12s");
  EXPECT_EQ(HumanDuration(absl::Hours(30) + absl::Seconds(5)), "30h");
}

TEST(TextTest, BytesHaveAUnit) {
  EXPECT_EQ(HumanBytes(512), "512 bytes");
  EXPECT_EQ(HumanBytes(uint64_t{64} << 20), "64 MiB");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
}

TEST(TextTest, ATablesNumbersStandRight) {
  Table table({"NAME", "COUNT"});
  table.Add({"a", "7"});
  table.Add({"longer", "1234"});
  EXPECT_EQ(table.ToString(),
            "NAME    COUNT\n"
            "a           7\n"
            "longer   1234\n");
}

TEST(TextTest, NearNamesAreThoseThatMayHaveBeenMeant) {
  const std::vector<std::string> known = {"acme.v1.Clock/Now", "acme.v1.Clock/Later",
                                          "acme.media.v1.Mp4Writer/Append"};
  EXPECT_THAT(NearNames("acme.v1.Clock/Nwo", known), ElementsAre("acme.v1.Clock/Now"));
  EXPECT_THAT(NearNames("append", known), ElementsAre("acme.media.v1.Mp4Writer/Append"));
  EXPECT_THAT(NearNames("clock", known), ElementsAre("acme.v1.Clock/Now", "acme.v1.Clock/Later"));
  EXPECT_THAT(NearNames("other.Thing/Entirely", known), IsEmpty());
}

}  // namespace
}  // namespace runloop::cli

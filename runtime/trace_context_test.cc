#include "runloop/runtime/trace_context.h"

#include <gtest/gtest.h>

#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

constexpr char kGiven[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(TraceContextTest, TakesWhatTheStandardAllows) {
  EXPECT_TRUE(IsTraceParent(kGiven));
  EXPECT_TRUE(CheckTraceParent(kGiven).ok());
  EXPECT_TRUE(CheckTraceParent("").ok());
  EXPECT_TRUE(IsTraceParent("00-00000000000000000000000000000001-0000000000000001-ff"));
}

TEST(TraceContextTest, RefusesEverythingElse) {
  for (const std::string text : {
           "x",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
           "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
           "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
           "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0\n",
       }) {
    EXPECT_FALSE(IsTraceParent(text)) << text;
    EXPECT_EQ(ReasonOf(CheckTraceParent(text)), v1::ERROR_REASON_INVALID_REQUEST) << text;
  }
}

TEST(TraceContextTest, AnIdSurvivesBeingANumber) {
  EXPECT_EQ(TraceIdOf(kGiven), "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(UnpackTraceId(PackTraceId(kGiven)), TraceIdOf(kGiven));
  const std::string small = "00-00000000000000010000000000000000-0000000000000001-00";
  EXPECT_EQ(UnpackTraceId(PackTraceId(small)), TraceIdOf(small));
  EXPECT_EQ(UnpackTraceId(PackTraceId("")), "");
  EXPECT_EQ(TraceIdOf(""), "");
}

TEST(TraceContextTest, OffARuntimeThreadNothingIsInherited) {
  EXPECT_EQ(TraceParentOr(""), nullptr);
  EXPECT_EQ(*TraceParentOr(kGiven), kGiven);
}

}  // namespace
}  // namespace runloop::internal

#include "runloop/runtime/call_site.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace runloop {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

TEST(CallSiteTest, NamesThePlaceWithTheEndOfItsPath) {
  const SourceLocation here = SourceLocation::current();
  const CallSite site(here);
  EXPECT_TRUE(site.known());
  EXPECT_EQ(site.line(), here.line());
  EXPECT_THAT(std::string(here.file_name()), EndsWith(std::string(site.file())));
  EXPECT_THAT(std::string(site.file()), EndsWith("runtime/call_site_test.cc"));
  EXPECT_LE(std::count(site.file().begin(), site.file().end(), '/'), 2);
  EXPECT_THAT(site.ToString(), HasSubstr(absl::StrCat("call_site_test.cc:", here.line(), " (")));
  EXPECT_THAT(site.ToString(), HasSubstr("TestBody"));
}

TEST(CallSiteTest, OfNowhereSaysNothing) {
  const CallSite unknown;
  EXPECT_FALSE(unknown.known());
  EXPECT_EQ(unknown.file(), "");
  EXPECT_EQ(unknown.line(), 0u);
  EXPECT_EQ(unknown.function(), "");
  EXPECT_EQ(unknown.ToString(), "");
  EXPECT_FALSE(CallSite(SourceLocation()).known());
  EXPECT_FALSE(CallSite(static_cast<const internal::CallSiteText*>(nullptr)).known());
}

TEST(CallSiteTest, OfAPeerIsCleanedAndBounded) {
  internal::CallSiteTable table;
  const CallSite site(table.Keep("a\n\x1b[2J\xc2\x9b\xc3\xa4.cc", 7, std::string(500, 'f')));
  EXPECT_TRUE(site.told());
  EXPECT_EQ(site.file(), "a??[2J?\xc3\xa4.cc");
  EXPECT_EQ(site.line(), 7u);
  EXPECT_EQ(site.function(), std::string(internal::kMaxCallSiteText, 'f'));
  EXPECT_THAT(site.ToString(), StartsWith("a??[2J?\xc3\xa4.cc:7 (fff"));
}

TEST(CallSiteTest, TextIsCutBetweenCharactersAndIsUtf8) {
  EXPECT_EQ(internal::CleanText("ab\xc3\xa4", 3), "ab");
  EXPECT_EQ(internal::CleanText("ab\xc3\xa4", 4), "ab\xc3\xa4");
  EXPECT_EQ(internal::CleanText("\xff\xc2", 9), "??");
  EXPECT_EQ(internal::CleanText("\x80\x80\x80", 2), "");
  EXPECT_EQ(internal::CleanText("", 2), "");
}

TEST(CallSiteTableTest, KeepsEachPlaceOnceAndNoMoreThanItMay) {
  internal::CallSiteTable table;
  const internal::CallSiteText* const first = table.Keep("a.cc", 1, "f");
  EXPECT_EQ(table.Keep("a.cc", 1, "f"), first);
  for (uint32_t line = 2; line <= internal::CallSiteTable::kMost; ++line) {
    ASSERT_NE(table.Keep("a.cc", line, "f"), nullptr);
  }
  EXPECT_EQ(table.Keep("b.cc", 1, "f"), nullptr);
  EXPECT_EQ(table.Keep("a.cc", 1, "f"), first);
  EXPECT_EQ(first->file, "a.cc");
}

}  // namespace
}  // namespace runloop

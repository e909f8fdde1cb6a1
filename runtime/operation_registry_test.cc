#include "runloop/runtime/operation_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runloop/runtime/error.h"
#include "runloop/test/v1/test_operations.pb.h"
#include "runloop/tests/testing/test_operations.h"

namespace runloop {
namespace {

using test::v1::DropReply;
using test::v1::EchoReply;
using test::v1::EchoRequest;
using testing::HasSubstr;

absl::StatusOr<EchoReply> DoEcho(OperationContext&, EchoRequest) { return EchoReply(); }

TEST(OperationRegistryTest, AnOperationIsFoundByItsNameAndListedInOrder) {
  OperationRegistry registry;
  TestOperations::Register(registry);
  ASSERT_NE(registry.Find(kEcho), nullptr);
  EXPECT_EQ(registry.Find(kEcho)->name(), kEcho);
  EXPECT_EQ(registry.Find("runloop.test.v1.TestOperations/Nothing"), nullptr);
  const std::vector<const Operation*> list = registry.List();
  EXPECT_GT(list.size(), 7u);
  EXPECT_TRUE(std::is_sorted(list.begin(), list.end(),
                             [](auto* a, auto* b) { return a->name() < b->name(); }));
}

TEST(OperationRegistryTest, ANameOfAnotherFormIsRefused) {
  OperationRegistry registry;
  for (const char* name : {"", "/", "Echo", "a.B/", "/Echo", "runloop.test.v1.TestOperations.Echo",
                           "runloop.test.v1.TestOperations/Echo/more"}) {
    EXPECT_EQ((registry.Register<EchoRequest, EchoReply>(name, DoEcho)).code(),
              absl::StatusCode::kInvalidArgument)
        << name;
  }
}

TEST(OperationRegistryTest, AMethodThatIsNotLinkedInIsNotFound) {
  OperationRegistry registry;
  const absl::Status status =
      registry.Register<EchoRequest, EchoReply>("acme.v1.Camera/Open", DoEcho);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("acme.v1.Camera/Open"));
}

TEST(OperationRegistryTest, TypesOtherThanTheMethodsAreRefusedWithBothNamed) {
  OperationRegistry registry;
  const absl::Status status = registry.Register<EchoRequest, DropReply>(
      kEcho,
      [](OperationContext&, EchoRequest) -> absl::StatusOr<DropReply> { return DropReply(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("runloop.test.v1.EchoReply"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("runloop.test.v1.DropReply"));
}

TEST(OperationRegistryTest, AStreamingMethodIsRefused) {
  OperationRegistry registry;
  const absl::Status status = registry.Register<test::v1::StreamRequest, test::v1::StreamReply>(
      "runloop.test.v1.TestOperations/Stream",
      [](OperationContext&, test::v1::StreamRequest) -> absl::StatusOr<test::v1::StreamReply> {
        return test::v1::StreamReply();
      });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("streams"));
}

TEST(OperationRegistryTest, ASecondRegistrationIsRefused) {
  OperationRegistry registry;
  ASSERT_TRUE((registry.Register<EchoRequest, EchoReply>(kEcho, DoEcho)).ok());
  EXPECT_EQ((registry.Register<EchoRequest, EchoReply>(kEcho, DoEcho)).code(),
            absl::StatusCode::kAlreadyExists);
}

TEST(OperationRegistryTest, BytesThatAreNoRequestAreRefusedWithAReason) {
  OperationRegistry registry;
  ASSERT_TRUE((registry.Register<EchoRequest, EchoReply>(kEcho, DoEcho)).ok());
  const Operation* const echo = registry.Find(kEcho);
  const absl::Status parsed = echo->ParseRequest("\xff\xff\xff", *echo->NewRequest());
  EXPECT_EQ(parsed.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(parsed), v1::ERROR_REASON_INVALID_REQUEST);
}

}  // namespace
}  // namespace runloop

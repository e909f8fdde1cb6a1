#include "runloop/daemon/request_charge.h"

#include <gtest/gtest.h>

#include <string>

#include "google/protobuf/descriptor.pb.h"
#include "google/protobuf/field_mask.pb.h"
#include "google/protobuf/struct.pb.h"
#include "runloop/runtime/error.h"
#include "runloop/v1/session.pb.h"

namespace runloop::daemon {
namespace {

using google::protobuf::Message;

absl::StatusOr<size_t> Charge(const Message& message, const WorkBounds& bounds = {}) {
  return ChargeOf(message.SerializeAsString(), *message.GetDescriptor(), bounds);
}

// That of `message` once it is parsed.
size_t MemoryOf(const Message& message) {
  const std::unique_ptr<Message> parsed(message.New());
  EXPECT_TRUE(parsed->ParseFromString(message.SerializeAsString()));
  return parsed->SpaceUsedLong();
}

TEST(RequestChargeTest, WhatIsHardlyLargerInMemoryCountsAsItsBytes) {
  v1::Dispatch frame;
  frame.set_request(std::string(1 << 20, 'x'));
  EXPECT_EQ(*Charge(frame), frame.ByteSizeLong());
  google::protobuf::FieldMask names;
  for (int i = 0; i < 1000; ++i) names.add_paths("a.name.of.some.length");
  EXPECT_EQ(*Charge(names), names.ByteSizeLong());
}

TEST(RequestChargeTest, WhatIsManyTimesItsBytesInMemoryCountsWithAQuarterOfThat) {
  v1::Dispatch unknown, other_type, chain;
  google::protobuf::ListValue values;
  google::protobuf::FieldMask names;
  google::protobuf::Struct map;
  google::protobuf::SourceCodeInfo::Location path;
  google::protobuf::FieldOptions enums;
  for (int i = 0; i < 10'000; ++i) {
    unknown.GetReflection()->MutableUnknownFields(&unknown)->AddVarint(1000, 1);
    other_type.GetReflection()->MutableUnknownFields(&other_type)->AddVarint(4, 1);
    chain.add_chain();
    values.add_values();
    names.add_paths("");
    (*map.mutable_fields())[std::to_string(i)];
    path.add_path(1);
    enums.GetReflection()->MutableUnknownFields(&enums)->AddVarint(1, 77);  // no CType
  }
  for (const Message* message : std::initializer_list<const Message*>{
           &unknown, &other_type, &chain, &values, &names, &map, &path, &enums}) {
    const absl::StatusOr<size_t> charge = Charge(*message);
    ASSERT_TRUE(charge.ok()) << charge.status();
    const size_t memory = MemoryOf(*message);
    EXPECT_GE(4 * *charge, memory * 2 / 3) << message->GetTypeName();
    EXPECT_LE(*charge, std::max(message->ByteSizeLong(), memory)) << message->GetTypeName();
  }
}

TEST(RequestChargeTest, WhatWouldFillMoreThanABoundIsRefused) {
  google::protobuf::FieldMask names;
  for (int i = 0; i < 10'000; ++i) names.add_paths("");
  const absl::Status refused = Charge(names, {.session = {.items = 1, .bytes = 100'000}}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_MESSAGE_TOO_LARGE);
  EXPECT_TRUE(Charge(names, {.session = {.items = 1, .bytes = 1'000'000}}).ok());
}

TEST(RequestChargeTest, WhatIsMalformedOrNestedTooDeeplyIsInvalid) {
  std::string nested;  // a Value of a ListValue of a Value …
  google::protobuf::Value value;
  for (int i = 0; i < 60; ++i) {
    google::protobuf::Value outer;
    *outer.mutable_list_value()->add_values() = value;
    value = outer;
    const bool ok = google::protobuf::Value().ParseFromString(value.SerializeAsString());
    EXPECT_EQ(Charge(value).ok(), ok) << i;
  }
  const std::string cut =
      v1::Dispatch::default_instance().SerializeAsString() + std::string(200, '\xff');
  EXPECT_EQ(ReasonOf(ChargeOf(cut, *v1::Dispatch::descriptor(), {}).status()),
            v1::ERROR_REASON_INVALID_REQUEST);
  // Groups, which the parser keeps as unknown: a start and an end each.
  std::string groups;
  for (int i = 0; i < 200; ++i) groups += "\xa3\x06\xa4\x06";
  v1::Dispatch dispatch;
  EXPECT_TRUE(dispatch.ParseFromString(groups));
  EXPECT_TRUE(ChargeOf(groups, *v1::Dispatch::descriptor(), {}).ok());
}

}  // namespace
}  // namespace runloop::daemon

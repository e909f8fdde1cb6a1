#include "runloop/client/response_reader.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "google/protobuf/wire_format_lite.h"

namespace runloop::internal {
namespace {

using google::protobuf::internal::WireFormatLite;

// Each takes what it reads off the front of `bytes`.
bool TakeTag(std::string_view& bytes, int field, WireFormatLite::WireType type) {
  // Every field number in use here is below 16, so a tag is one byte.
  if (bytes.empty() || static_cast<uint8_t>(bytes[0]) != WireFormatLite::MakeTag(field, type)) {
    return false;
  }
  bytes.remove_prefix(1);
  return true;
}

bool TakeVarint(std::string_view& bytes, size_t most_bytes, uint64_t& value) {
  value = 0;
  for (size_t i = 0; i < std::min(bytes.size(), most_bytes); ++i) {
    const auto byte = static_cast<uint8_t>(bytes[i]);
    value |= uint64_t{byte & 0x7Fu} << (7 * i);
    if (byte >= 0x80) continue;
    bytes.remove_prefix(i + 1);
    return true;
  }
  return false;
}

// The beginning of a field that takes up the rest.
bool TakeLast(std::string_view& bytes, int field) {
  uint64_t size;
  return TakeTag(bytes, field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED) &&
         TakeVarint(bytes, 4, size) && size == bytes.size();
}

}  // namespace

bool ReadLoneReply(std::string_view bytes, v1::SessionResponse& message) {
  uint64_t id;
  if (!TakeLast(bytes, v1::SessionResponse::kOutcomesFieldNumber) ||
      !TakeTag(bytes, v1::Outcome::kInvocationIdFieldNumber, WireFormatLite::WIRETYPE_VARINT) ||
      !TakeVarint(bytes, 9, id) || !TakeLast(bytes, v1::Outcome::kReplyFieldNumber)) {
    return false;
  }
  v1::Outcome& outcome =
      message.outcomes().empty() ? *message.add_outcomes() : *message.mutable_outcomes(0);
  outcome.set_invocation_id(id);
  outcome.mutable_reply()->assign(bytes);
  return true;
}

}  // namespace runloop::internal

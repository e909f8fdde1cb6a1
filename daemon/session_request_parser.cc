#include "runloop/daemon/session_request_parser.h"

#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr int64_t kMinItems = 1024;
constexpr int64_t kMessagesPerItem = 4;
// Smaller messages cannot become large in memory.
constexpr size_t kUncounted = size_t{64} << 10;

int64_t MaxItems(int64_t max_unfinished) {
  constexpr int64_t kMost = std::numeric_limits<int>::max() / kMessagesPerItem;
  if (max_unfinished > kMost / 2) return kMost;
  return std::max(2 * max_unfinished, kMinItems);
}

// Takes from `left` one for each message inside, at any depth, and for each unknown field: what
// takes memory of its own. False: there are more, or it is malformed.
bool CountMessages(CodedInputStream& in, const Descriptor& type, int64_t& left) {
  while (const uint32_t tag = in.ReadTag()) {
    const FieldDescriptor* const field =
        type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    const bool is_message = field != nullptr && field->type() == FieldDescriptor::TYPE_MESSAGE;
    if ((field == nullptr || is_message) && --left < 0) return false;
    uint64_t ignored;
    switch (WireFormatLite::GetTagWireType(tag)) {
      case WireFormatLite::WIRETYPE_VARINT:
        if (!in.ReadVarint64(&ignored)) return false;
        break;
      case WireFormatLite::WIRETYPE_FIXED64:
        if (!in.Skip(8)) return false;
        break;
      case WireFormatLite::WIRETYPE_FIXED32:
        if (!in.Skip(4)) return false;
        break;
      case WireFormatLite::WIRETYPE_LENGTH_DELIMITED: {
        int size;
        if (!in.ReadVarintSizeAsInt(&size)) return false;
        if (!is_message) {
          if (!in.Skip(size)) return false;
          break;
        }
        const CodedInputStream::Limit limit = in.PushLimit(size);
        if (!CountMessages(in, *field->message_type(), left) || in.BytesUntilLimit() != 0) {
          return false;
        }
        in.PopLimit(limit);
        break;
      }
      default:
        return false;  // a group: the protocol has none
    }
  }
  return in.ConsumedEntireMessage();
}

}  // namespace

absl::Status Violation(absl::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION,
                   absl::StrCat("session stream: ", what));
}

absl::Status ParseSessionRequest(grpc::ByteBuffer& bytes, int64_t max_unfinished,
                                 v1::SessionRequest& request) {
  const int64_t most = MaxItems(max_unfinished);
  if (bytes.Length() > kUncounted) {
    grpc::ByteBuffer copy(bytes);  // of the reference: reading uses it up
    grpc::ProtoBufferReader reader(&copy);
    CodedInputStream in(&reader);
    int64_t left = kMessagesPerItem * most;
    if (!reader.status().ok() || !CountMessages(in, *v1::SessionRequest::descriptor(), left)) {
      return Violation(left < 0
                           ? absl::StrCat("one message held more than ", kMessagesPerItem * most,
                                          " messages or unknown fields: send several")
                           : "a message is no valid SessionRequest");
    }
  }
  grpc::ProtoBufferReader reader(&bytes);
  if (!reader.status().ok() || !request.ParseFromZeroCopyStream(&reader)) {
    return Violation("a message is no valid SessionRequest");
  }
  if (request.dispatches_size() > most || request.cancels_size() > most ||
      request.waiting_size() > most) {
    return Violation(absl::StrCat("one message held ", request.dispatches_size(), " dispatches, ",
                                  request.cancels_size(), " cancels and ", request.waiting_size(),
                                  " waiting; at most ", most,
                                  " of each, twice limits.max_unfinished: send several messages"));
  }
  return absl::OkStatus();
}

}  // namespace runloop::daemon

#include "runloop/daemon/session_request_parser.h"

#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/message_items.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

using google::protobuf::FieldDescriptor;

constexpr int64_t kMinItems = 1024;
constexpr int64_t kMessagesPerItem = 4;
// Smaller messages cannot become large in memory.
constexpr size_t kUncounted = size_t{64} << 10;

int64_t MaxItems(int64_t max_unfinished) {
  constexpr int64_t kMost = std::numeric_limits<int>::max() / kMessagesPerItem;
  if (max_unfinished > kMost / 2) return kMost;
  return std::max(2 * max_unfinished, kMinItems);
}

// Every item counts one, but strings, of which an item has few.
int64_t PriceOf(const FieldDescriptor* field) {
  return field != nullptr && field->cpp_type() == FieldDescriptor::CPPTYPE_STRING ? 0 : 1;
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
    int64_t left = kMessagesPerItem * most;
    if (!reader.status().ok() ||
        !PriceItems(reader, *v1::SessionRequest::descriptor(), PriceOf, left)) {
      return Violation(left < 0
                           ? absl::StrCat("one message held more than ", kMessagesPerItem * most,
                                          " messages and unknown fields: send several")
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

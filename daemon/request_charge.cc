#include "runloop/daemon/request_charge.h"

#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "runloop/daemon/message_items.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// Smaller requests are bounded by their number.
constexpr size_t kUncounted = 128;
// A list of small messages takes so many times its bytes, and that is nobody's fault: whoever
// counts what is unfinished counts bytes.
constexpr int64_t kMemoryPerByte = 4;

// About what an item takes in memory beside its bytes, with what the allocator adds.
int64_t MemoryOf(const FieldDescriptor* field) {
  constexpr int64_t kUnknown = 48;
  constexpr int64_t kString = 48;
  constexpr int64_t kMessage = 48, kMessageField = 16;
  if (field == nullptr) return kUnknown;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return kMessage + kMessageField * field->message_type()->field_count();
    case FieldDescriptor::CPPTYPE_STRING:
      return kString;
    case FieldDescriptor::CPPTYPE_ENUM:
      // One of a closed enum may be kept as unknown.
      return field->file()->syntax() == google::protobuf::FileDescriptor::SYNTAX_PROTO2 ? kUnknown
                                                                                        : 4;
    case FieldDescriptor::CPPTYPE_BOOL:
      return 1;
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_FLOAT:
      return 4;
    default:
      return 8;
  }
}

absl::StatusOr<size_t> Count(google::protobuf::io::ZeroCopyInputStream& bytes, size_t size,
                             const Descriptor& type, const WorkBounds& bounds) {
  int64_t least = bounds.session.bytes;
  const char* holder = "session";
  if (bounds.user.bytes < least) {
    least = bounds.user.bytes;
    holder = "user";
  }
  if (bounds.total.bytes < least) {
    least = bounds.total.bytes;
    holder = "runtime";
  }
  const int64_t most =
      kMemoryPerByte * std::min(least, std::numeric_limits<int64_t>::max() / kMemoryPerByte);
  int64_t left = most - static_cast<int64_t>(size);
  if (left >= 0 && PriceItems(bytes, type, MemoryOf, left)) {
    return std::max(size, static_cast<size_t>((most - left) / kMemoryPerByte));
  }
  if (left >= 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                     absl::StrCat("the request is no valid ", type.full_name()));
  }
  return MakeError(
      absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_MESSAGE_TOO_LARGE,
      absl::StrCat("this request has ", size, " bytes, and would take more than ", most,
                   " in memory: with its many small parts it can never fit a bound of ", least,
                   " bytes; send less"),
      {{"bound", holder}, {"limit", absl::StrCat(least, " bytes")}});
}

}  // namespace

absl::StatusOr<size_t> ChargeOf(std::string_view bytes, const Descriptor& type,
                                const WorkBounds& bounds) {
  if (bytes.size() <= kUncounted) return bytes.size();
  // No message is larger than an int.
  google::protobuf::io::ArrayInputStream in(bytes.data(), static_cast<int>(bytes.size()));
  return Count(in, bytes.size(), type, bounds);
}

absl::StatusOr<size_t> ChargeOf(const grpc::ByteBuffer& bytes, const Descriptor& type,
                                const WorkBounds& bounds) {
  if (bytes.Length() <= kUncounted) return bytes.Length();
  grpc::ByteBuffer copy(bytes);  // of the reference: reading uses it up
  grpc::ProtoBufferReader in(&copy);
  if (!in.status().ok()) return FromGrpcStatus(in.status());
  return Count(in, bytes.Length(), type, bounds);
}

}  // namespace runloop::daemon

#include "runloop/daemon/session_request_reader.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/wire_format_lite.h"
#include "runloop/daemon/message_items.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;

constexpr int64_t kMinItems = 1024;
constexpr int64_t kMessagesPerItem = 4;
// Smaller messages cannot become large in memory.
constexpr size_t kUncounted = size_t{64} << 10;
// What is kept from one message for the next, of each kind; and what an item of a parsed one counts
// for beside its bytes. Clients of ours gather about a megabyte.
constexpr size_t kKeptBytes = size_t{2} << 20;
constexpr size_t kItemBytes = 64;

int64_t MaxItems(int64_t max_unfinished) {
  constexpr int64_t kMost = std::numeric_limits<int>::max() / kMessagesPerItem;
  if (max_unfinished > kMost / 2) return kMost;
  return std::max(2 * max_unfinished, kMinItems);
}

// Every item counts one, but strings, of which an item has few.
int64_t PriceOf(const FieldDescriptor* field) {
  return field != nullptr && field->cpp_type() == FieldDescriptor::CPPTYPE_STRING ? 0 : 1;
}

// Fields one after the other, as far as they are varints and bytes; for the rest there is the
// parser.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : at_(bytes.data()), end_(at_ + bytes.size()) {}

  bool done() const { return at_ == end_; }
  const char* at() const { return at_; }

  // Of a field below 16.
  bool Tag(uint32_t& tag) {
    tag = static_cast<uint8_t>(*at_++);
    return tag < 0x80;
  }
  bool Varint(uint64_t& value) { return Varint(value, 10); }
  bool Bytes(std::string_view& value) {
    uint64_t size;
    if (!Varint(size, 5) || size > static_cast<uint64_t>(end_ - at_)) return false;
    value = {at_, static_cast<size_t>(size)};
    at_ += size;
    return true;
  }

 private:
  bool Varint(uint64_t& value, int most_bytes) {
    value = 0;
    for (int i = 0; i < most_bytes && at_ != end_; ++i) {
      const auto byte = static_cast<uint8_t>(*at_++);
      value |= uint64_t{byte & 0x7Fu} << (7 * i);
      if (byte < 0x80) return i < 9 || byte <= 1;
    }
    return false;
  }

  const char* at_;
  const char* const end_;
};

constexpr uint32_t VarintTag(int field) {
  return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_VARINT);
}
constexpr uint32_t BytesTag(int field) {
  return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}

bool ReadTimeout(std::string_view bytes, DispatchView& view) {
  view.has_timeout = true;
  for (Fields fields(bytes); !fields.done();) {
    uint32_t tag;
    uint64_t value;
    if (!fields.Tag(tag) || !fields.Varint(value)) return false;
    switch (tag) {
      case VarintTag(google::protobuf::Duration::kSecondsFieldNumber):
        view.timeout_seconds = static_cast<int64_t>(value);
        break;
      case VarintTag(google::protobuf::Duration::kNanosFieldNumber):
        view.timeout_nanos = static_cast<int32_t>(value);
        break;
      default:
        return false;
    }
  }
  return true;
}

// False: it has other fields, or is malformed.
bool ReadDispatch(std::string_view bytes, DispatchView& view) {
  for (Fields fields(bytes); !fields.done();) {
    uint32_t tag;
    uint64_t value;
    std::string_view inner;
    if (!fields.Tag(tag)) return false;
    switch (tag) {
      case VarintTag(v1::Dispatch::kInvocationIdFieldNumber):
        if (!fields.Varint(view.invocation_id)) return false;
        break;
      case VarintTag(v1::Dispatch::kOperationIdFieldNumber):
        // 0 is an operation's id that there is none of, and not the want of one.
        if (!fields.Varint(value) || static_cast<uint32_t>(value) == 0) return false;
        view.operation_id = static_cast<uint32_t>(value);
        break;
      case BytesTag(v1::Dispatch::kRequestFieldNumber):
        if (!fields.Bytes(view.request)) return false;
        break;
      case BytesTag(v1::Dispatch::kTimeoutFieldNumber):
        if (!fields.Bytes(inner) || !ReadTimeout(inner, view)) return false;
        break;
      case VarintTag(v1::Dispatch::kReplyWantedFieldNumber):
        if (!fields.Varint(value)) return false;
        view.reply_wanted = value != 0;
        break;
      case VarintTag(v1::Dispatch::kCallSiteIdFieldNumber):
        if (!fields.Varint(value)) return false;
        view.call_site_id = static_cast<uint32_t>(value);
        break;
      case VarintTag(v1::Dispatch::kBatchSizeFieldNumber):
        if (!fields.Varint(value)) return false;
        view.batch_size = static_cast<uint32_t>(value);
        break;
      case VarintTag(v1::Dispatch::kStopAtFailureFieldNumber):
        if (!fields.Varint(value)) return false;
        view.stop_at_failure = value != 0;
        break;
      default:
        return false;
    }
  }
  return view.operation_id != 0;
}

}  // namespace

absl::Status Violation(absl::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION,
                   absl::StrCat("session stream: ", what));
}

SessionRequestReader::SessionRequestReader(int64_t max_unfinished)
    : most_(MaxItems(max_unfinished)) {}

void SessionRequestReader::Clear() {
  slices_.clear();
  dispatches_.clear();
  if (flat_.capacity() > kKeptBytes) flat_ = std::string();
  if (dispatches_.capacity() * sizeof(DispatchView) > kKeptBytes) {
    dispatches_ = std::vector<DispatchView>();
  }
  // A message keeps what it once had.
  if (parsed_bytes_ > kKeptBytes) {
    parsed_bytes_ = 0;
    rest_ = v1::SessionRequest();
  } else if (parsed_bytes_ > 0) {
    rest_.Clear();
  }
}

void SessionRequestReader::Trim() {
  Clear();
  slices_ = {};
  flat_ = std::string();
  dispatches_ = std::vector<DispatchView>();
  rest_ = v1::SessionRequest();
  parsed_bytes_ = 0;
}

std::optional<std::string_view> SessionRequestReader::Flatten(grpc::ByteBuffer& bytes) {
  if (!bytes.Dump(&slices_).ok()) return std::nullopt;
  if (slices_.size() == 1) {
    return std::string_view(reinterpret_cast<const char*>(slices_[0].begin()), slices_[0].size());
  }
  flat_.clear();
  flat_.reserve(bytes.Length());
  for (const grpc::Slice& slice : slices_) {
    flat_.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  slices_.clear();
  return flat_;
}

absl::Status SessionRequestReader::Read(grpc::ByteBuffer& bytes) {
  Clear();
  const std::optional<std::string_view> flat = Flatten(bytes);
  if (!flat.has_value()) return Violation("a message cannot be read");
  return ReadFlat(*flat);
}

absl::Status SessionRequestReader::Read(std::string_view bytes) {
  Clear();
  return ReadFlat(bytes);
}

absl::Status SessionRequestReader::ReadFlat(std::string_view bytes) {
  std::string rest;
  if (ReadSimple(bytes, rest)) return rest.empty() ? absl::OkStatus() : Parse(rest);
  dispatches_.clear();
  if (absl::Status status = Parse(bytes); !status.ok()) return status;
  dispatches_.reserve(static_cast<size_t>(rest_.dispatches_size()));
  for (const v1::Dispatch& dispatch : rest_.dispatches()) {
    const bool by_id = dispatch.operation_case() == v1::Dispatch::kOperationId;
    dispatches_.push_back({.invocation_id = dispatch.invocation_id(),
                           .operation_id = by_id ? dispatch.operation_id() : 0,
                           .request = dispatch.request(),
                           .has_timeout = dispatch.has_timeout(),
                           .timeout_seconds = dispatch.timeout().seconds(),
                           .timeout_nanos = dispatch.timeout().nanos(),
                           .reply_wanted = dispatch.reply_wanted(),
                           .call_site_id = dispatch.call_site_id(),
                           .batch_size = dispatch.batch_size(),
                           .stop_at_failure = dispatch.stop_at_failure(),
                           .message = &dispatch});
  }
  return absl::OkStatus();
}

bool SessionRequestReader::ReadSimple(std::string_view bytes, std::string& rest) {
  constexpr uint32_t kDispatch = BytesTag(v1::SessionRequest::kDispatchesFieldNumber);
  for (Fields fields(bytes); !fields.done();) {
    const char* const begin = fields.at();
    uint32_t tag;
    std::string_view field;
    // All its other fields are messages, too.
    if (!fields.Tag(tag) ||
        WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED ||
        !fields.Bytes(field)) {
      return false;
    }
    if (tag != kDispatch) {
      rest.append(begin, fields.at());
      continue;
    }
    if (static_cast<int64_t>(dispatches_.size()) == most_) return false;
    if (!ReadDispatch(field, dispatches_.emplace_back())) return false;
  }
  return true;
}

absl::Status SessionRequestReader::Parse(std::string_view bytes) {
  if (bytes.size() > kUncounted) {
    google::protobuf::io::ArrayInputStream in(bytes.data(), static_cast<int>(bytes.size()));
    int64_t left = kMessagesPerItem * most_;
    if (!PriceItems(in, *v1::SessionRequest::descriptor(), PriceOf, left)) {
      return Violation(left < 0
                           ? absl::StrCat("one message held more than ", kMessagesPerItem * most_,
                                          " messages and unknown fields: send several")
                           : "a message is no valid SessionRequest");
    }
  }
  if (!rest_.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    parsed_bytes_ = std::numeric_limits<size_t>::max();
    return Violation("a message is no valid SessionRequest");
  }
  const auto items = static_cast<size_t>(rest_.dispatches_size() + rest_.cancels_size() +
                                         rest_.waiting_size() + rest_.call_sites_size() +
                                         rest_.subscribes_size() + rest_.unsubscribes_size());
  parsed_bytes_ += bytes.size() + kItemBytes * items + 1;
  if (rest_.dispatches_size() > most_ || rest_.cancels_size() > most_ ||
      rest_.waiting_size() > most_ || rest_.call_sites_size() > most_ ||
      rest_.subscribes_size() > most_ || rest_.unsubscribes_size() > most_) {
    return Violation(absl::StrCat("one message held ", rest_.dispatches_size(), " dispatches, ",
                                  rest_.cancels_size(), " cancels, ", rest_.waiting_size(),
                                  " waiting, ", rest_.call_sites_size(), " call sites, ",
                                  rest_.subscribes_size(), " subscribes and ",
                                  rest_.unsubscribes_size(), " unsubscribes; at most ", most_,
                                  " of each, twice limits.max_unfinished: send several messages"));
  }
  return absl::OkStatus();
}

}  // namespace runloop::daemon

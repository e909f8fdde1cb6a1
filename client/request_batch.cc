#include "runloop/client/request_batch.h"

#include <array>
#include <utility>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;

// From this size on a request is referred to where it lies.
constexpr size_t kOwnSlice = 4096;

constexpr uint32_t VarintTag(int field) {
  return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_VARINT);
}
constexpr uint32_t BytesTag(int field) {
  return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}

// Every field number in use is below 16, so a tag is one byte.
constexpr size_t kTagSize = 1;

size_t VarintFieldSize(uint64_t value) { return kTagSize + CodedOutputStream::VarintSize64(value); }
size_t BytesFieldSize(size_t size) {
  return kTagSize + CodedOutputStream::VarintSize64(size) + size;
}

// A google.protobuf.Duration.
struct Timeout {
  explicit Timeout(absl::Duration timeout) {
    present = timeout != absl::InfiniteDuration();
    if (!present) return;
    absl::Duration rest;
    seconds = static_cast<uint64_t>(absl::IDivDuration(timeout, absl::Seconds(1), &rest));
    nanos = static_cast<uint64_t>(absl::ToInt64Nanoseconds(rest));
    // Shorter than can be said, and not 0, which would mean none.
    if (seconds == 0 && nanos == 0) nanos = 1;
    constexpr uint64_t kLongest = 315'576'000'000;
    present = seconds <= kLongest;
  }
  size_t size() const {
    return (seconds != 0 ? VarintFieldSize(seconds) : 0) +
           (nanos != 0 ? VarintFieldSize(nanos) : 0);
  }

  bool present = false;
  uint64_t seconds = 0;
  uint64_t nanos = 0;
};

class Writer {
 public:
  explicit Writer(std::string* out) : out_(out) {}

  void Varint(int field, uint64_t value) {
    Raw(VarintTag(field));
    Raw(value);
  }
  // The tag and length; the bytes follow.
  void BytesHeader(int field, size_t size) {
    Raw(BytesTag(field));
    Raw(size);
  }

 private:
  void Raw(uint64_t value) {
    std::array<uint8_t, 10> bytes;
    const uint8_t* end = CodedOutputStream::WriteVarint64ToArray(value, bytes.data());
    out_->append(reinterpret_cast<const char*>(bytes.data()), end - bytes.data());
  }

  std::string* const out_;
};

size_t BodySize(const RequestBatch::Dispatch& dispatch, const Timeout& timeout) {
  return VarintFieldSize(dispatch.invocation_id) +
         (dispatch.operation_id != 0 ? VarintFieldSize(dispatch.operation_id)
                                     : BytesFieldSize(dispatch.operation_name.size())) +
         (timeout.present ? BytesFieldSize(timeout.size()) : 0) +
         (dispatch.reply_wanted ? VarintFieldSize(1) : 0) +
         (dispatch.coalesce_key.empty() ? 0 : BytesFieldSize(dispatch.coalesce_key.size())) +
         dispatch.more_fields.size() + BytesFieldSize(dispatch.request.size());
}

}  // namespace

grpc::Slice SerializeToSlice(const google::protobuf::MessageLite& message) {
  grpc::Slice slice(message.ByteSizeLong());
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return slice;
}

size_t RequestBatch::SizeOf(const Dispatch& dispatch) {
  return BytesFieldSize(BodySize(dispatch, Timeout(dispatch.timeout)));
}

void RequestBatch::AddDispatch(const Dispatch& dispatch) {
  const Timeout timeout(dispatch.timeout);
  const size_t body = BodySize(dispatch, timeout);
  Writer writer(&tail_);
  writer.BytesHeader(v1::SessionRequest::kDispatchesFieldNumber, body);
  writer.Varint(v1::Dispatch::kInvocationIdFieldNumber, dispatch.invocation_id);
  if (dispatch.operation_id != 0) {
    writer.Varint(v1::Dispatch::kOperationIdFieldNumber, dispatch.operation_id);
  } else {
    writer.BytesHeader(v1::Dispatch::kOperationNameFieldNumber, dispatch.operation_name.size());
    tail_.append(dispatch.operation_name);
  }
  if (timeout.present) {
    writer.BytesHeader(v1::Dispatch::kTimeoutFieldNumber, timeout.size());
    if (timeout.seconds != 0) {
      writer.Varint(google::protobuf::Duration::kSecondsFieldNumber, timeout.seconds);
    }
    if (timeout.nanos != 0) {
      writer.Varint(google::protobuf::Duration::kNanosFieldNumber, timeout.nanos);
    }
  }
  if (dispatch.reply_wanted) writer.Varint(v1::Dispatch::kReplyWantedFieldNumber, 1);
  if (!dispatch.coalesce_key.empty()) {
    writer.BytesHeader(v1::Dispatch::kCoalesceKeyFieldNumber, dispatch.coalesce_key.size());
    tail_.append(dispatch.coalesce_key);
  }
  tail_.append(dispatch.more_fields);
  // Last, so that a large one can be a slice of its own.
  writer.BytesHeader(v1::Dispatch::kRequestFieldNumber, dispatch.request.size());
  if (dispatch.request.size() < kOwnSlice) {
    tail_.append(reinterpret_cast<const char*>(dispatch.request.begin()), dispatch.request.size());
  } else {
    FlushTail();
    slices_.push_back(dispatch.request);
  }
  size_ += BytesFieldSize(body);
  last_id_ = dispatch.invocation_id;
}

void RequestBatch::AddCancel(uint64_t invocation_id, bool give_up) {
  const size_t body = VarintFieldSize(invocation_id) + (give_up ? VarintFieldSize(1) : 0);
  Writer writer(&tail_);
  writer.BytesHeader(v1::SessionRequest::kCancelsFieldNumber, body);
  writer.Varint(v1::Cancel::kInvocationIdFieldNumber, invocation_id);
  if (give_up) writer.Varint(v1::Cancel::kGiveUpFieldNumber, 1);
  ++cancels_;
  size_ += BytesFieldSize(body);
}

void RequestBatch::AddWaiting(const v1::Waiting& waiting) {
  const std::string body = waiting.SerializeAsString();
  Writer(&tail_).BytesHeader(v1::SessionRequest::kWaitingFieldNumber, body.size());
  tail_.append(body);
  ++cancels_;
  size_ += BytesFieldSize(body.size());
}

grpc::ByteBuffer RequestBatch::Take() && {
  FlushTail();
  return grpc::ByteBuffer(slices_.data(), slices_.size());
}

void RequestBatch::FlushTail() {
  if (tail_.empty()) return;
  slices_.emplace_back(tail_);
  tail_.clear();
}

}  // namespace runloop::internal

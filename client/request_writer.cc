#include "runloop/client/request_writer.h"

#include <algorithm>
#include <cstring>
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
// Of what is copied. A lone call needs little, a flood much.
constexpr size_t kSmallestChunk = 512;
constexpr size_t kLargestChunk = size_t{64} << 10;

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
    constexpr uint64_t kNanos = 1'000'000'000;
    if (timeout < absl::Hours(24)) {  // by far the fastest
      nanos = static_cast<uint64_t>(absl::ToInt64Nanoseconds(timeout));
      seconds = nanos / kNanos;
      nanos %= kNanos;
    } else {
      absl::Duration rest;
      seconds = static_cast<uint64_t>(absl::IDivDuration(timeout, absl::Seconds(1), &rest));
      nanos = static_cast<uint64_t>(absl::ToInt64Nanoseconds(rest));
    }
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

// Each writes at `to` and returns where it ends.
uint8_t* WriteVarint(int field, uint64_t value, uint8_t* to) {
  *to = static_cast<uint8_t>(VarintTag(field));
  return CodedOutputStream::WriteVarint64ToArray(value, to + kTagSize);
}
// The tag and length; the bytes follow.
uint8_t* WriteBytesHeader(int field, size_t size, uint8_t* to) {
  *to = static_cast<uint8_t>(BytesTag(field));
  return CodedOutputStream::WriteVarint64ToArray(size, to + kTagSize);
}
uint8_t* WriteRaw(const void* bytes, size_t size, uint8_t* to) {
  if (size != 0) std::memcpy(to, bytes, size);
  return to + size;
}

size_t BodySize(const RequestWriter::Dispatch& dispatch, const Timeout& timeout) {
  return VarintFieldSize(dispatch.invocation_id) +
         (dispatch.operation_id != 0 ? VarintFieldSize(dispatch.operation_id)
                                     : BytesFieldSize(dispatch.operation_name.size())) +
         (timeout.present ? BytesFieldSize(timeout.size()) : 0) +
         (dispatch.reply_wanted ? VarintFieldSize(1) : 0) +
         (dispatch.call_site_id != 0 ? VarintFieldSize(dispatch.call_site_id) : 0) +
         (dispatch.batch_size != 0 ? VarintFieldSize(dispatch.batch_size) : 0) +
         (dispatch.stop_at_failure ? VarintFieldSize(1) : 0) +
         (dispatch.coalesce_key.empty() ? 0 : BytesFieldSize(dispatch.coalesce_key.size())) +
         dispatch.more_fields.size() + BytesFieldSize(dispatch.request_size());
}

}  // namespace

grpc::Slice SerializeToSlice(const google::protobuf::MessageLite& message) {
  grpc::Slice slice(message.ByteSizeLong());
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return slice;
}

void RequestWriter::Dispatch::SetRequest(const google::protobuf::MessageLite& given) {
  message_size = given.ByteSizeLong();
  message = &given;
  if (message_size >= kOwnSlice) OwnRequest();
}

void RequestWriter::Dispatch::OwnRequest() {
  if (message != nullptr) request = SerializeToSlice(*std::exchange(message, nullptr));
}

size_t RequestWriter::SizeOf(const Dispatch& dispatch) {
  return BytesFieldSize(BodySize(dispatch, Timeout(dispatch.timeout)));
}

void RequestWriter::AddDispatch(const Dispatch& dispatch) {
  const Timeout timeout(dispatch.timeout);
  const size_t body = BodySize(dispatch, timeout);
  const size_t request_size = dispatch.request_size();
  const bool own_slice = dispatch.message == nullptr && request_size >= kOwnSlice;
  uint8_t* to = Extend(BytesFieldSize(body) - (own_slice ? request_size : 0));
  to = WriteBytesHeader(v1::SessionRequest::kDispatchesFieldNumber, body, to);
  to = WriteVarint(v1::Dispatch::kInvocationIdFieldNumber, dispatch.invocation_id, to);
  if (dispatch.operation_id != 0) {
    to = WriteVarint(v1::Dispatch::kOperationIdFieldNumber, dispatch.operation_id, to);
  } else {
    const std::string& name = dispatch.operation_name;
    to = WriteBytesHeader(v1::Dispatch::kOperationNameFieldNumber, name.size(), to);
    to = WriteRaw(name.data(), name.size(), to);
  }
  if (timeout.present) {
    to = WriteBytesHeader(v1::Dispatch::kTimeoutFieldNumber, timeout.size(), to);
    if (timeout.seconds != 0) {
      to = WriteVarint(google::protobuf::Duration::kSecondsFieldNumber, timeout.seconds, to);
    }
    if (timeout.nanos != 0) {
      to = WriteVarint(google::protobuf::Duration::kNanosFieldNumber, timeout.nanos, to);
    }
  }
  if (dispatch.reply_wanted) to = WriteVarint(v1::Dispatch::kReplyWantedFieldNumber, 1, to);
  if (dispatch.call_site_id != 0) {
    to = WriteVarint(v1::Dispatch::kCallSiteIdFieldNumber, dispatch.call_site_id, to);
  }
  if (dispatch.batch_size != 0) {
    to = WriteVarint(v1::Dispatch::kBatchSizeFieldNumber, dispatch.batch_size, to);
  }
  if (dispatch.stop_at_failure) {
    to = WriteVarint(v1::Dispatch::kStopAtFailureFieldNumber, 1, to);
  }
  if (const std::string& key = dispatch.coalesce_key; !key.empty()) {
    to = WriteBytesHeader(v1::Dispatch::kCoalesceKeyFieldNumber, key.size(), to);
    to = WriteRaw(key.data(), key.size(), to);
  }
  to = WriteRaw(dispatch.more_fields.data(), dispatch.more_fields.size(), to);
  // Last, so that a large one can be a slice of its own.
  to = WriteBytesHeader(v1::Dispatch::kRequestFieldNumber, request_size, to);
  if (dispatch.message != nullptr) {
    dispatch.message->SerializeWithCachedSizesToArray(to);
  } else if (!own_slice) {
    if (request_size != 0) std::memcpy(to, dispatch.request->begin(), request_size);
  } else {
    FlushTail();
    slices_.push_back(*dispatch.request);
  }
  size_ += BytesFieldSize(body);
  last_id_ = dispatch.invocation_id;
}

void RequestWriter::AddCancel(uint64_t invocation_id, bool give_up) {
  const size_t body = VarintFieldSize(invocation_id) + (give_up ? VarintFieldSize(1) : 0);
  uint8_t* to = Extend(BytesFieldSize(body));
  to = WriteBytesHeader(v1::SessionRequest::kCancelsFieldNumber, body, to);
  to = WriteVarint(v1::Cancel::kInvocationIdFieldNumber, invocation_id, to);
  if (give_up) WriteVarint(v1::Cancel::kGiveUpFieldNumber, 1, to);
  ++cancels_;
  size_ += BytesFieldSize(body);
}

void RequestWriter::AddMessage(int field, const google::protobuf::MessageLite& message) {
  const size_t body = message.ByteSizeLong();
  uint8_t* const to = Extend(BytesFieldSize(body));
  message.SerializeWithCachedSizesToArray(WriteBytesHeader(field, body, to));
  ++cancels_;
  size_ += BytesFieldSize(body);
}

void RequestWriter::AddOutcomesReceived(uint64_t count) {
  WriteVarint(v1::SessionRequest::kOutcomesReceivedFieldNumber, count,
              Extend(VarintFieldSize(count)));
  size_ += VarintFieldSize(count);
}

grpc::ByteBuffer RequestWriter::Share() {
  FlushTail();
  return grpc::ByteBuffer(slices_.data(), slices_.size());
}

void RequestWriter::AppendPieces(std::vector<std::string_view>& pieces) {
  const auto append = [&](const uint8_t* begin, size_t size) {
    if (size > 0) pieces.emplace_back(reinterpret_cast<const char*>(begin), size);
  };
  for (const grpc::Slice& slice : slices_) append(slice.begin(), slice.size());
  append(chunk_.begin() + tail_begin_, tail_end_ - tail_begin_);
}

void RequestWriter::Clear() {
  slices_.clear();
  tail_begin_ = tail_end_ = 0;
  of_subscriptions = false;
  size_ = cancels_ = 0;
  last_id_ = 0;
}

uint8_t* RequestWriter::Extend(size_t size) {
  if (chunk_.size() - tail_end_ < size) {
    FlushTail();
    const size_t next = std::clamp(2 * chunk_.size(), kSmallestChunk, kLargestChunk);
    chunk_ = grpc::Slice(std::max(next, size));
    tail_begin_ = tail_end_ = 0;
  }
  return const_cast<uint8_t*>(chunk_.begin()) + std::exchange(tail_end_, tail_end_ + size);
}

void RequestWriter::FlushTail() {
  if (tail_begin_ == tail_end_) return;
  slices_.push_back(chunk_.sub(tail_begin_, tail_end_));
  tail_begin_ = tail_end_;
}

}  // namespace runloop::internal

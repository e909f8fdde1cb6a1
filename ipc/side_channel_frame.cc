#include "runloop/ipc/side_channel_frame.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace runloop {
namespace {

constexpr size_t kHeader = 4;

absl::Status TooLarge(size_t size) {
  return absl::InvalidArgumentError(
      absl::StrCat("a side channel message of ", size, " bytes; at most ", kMaxSideChannelMessage));
}

}  // namespace

absl::StatusOr<std::string> EncodeSideChannelFrame(const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  if (size > kMaxSideChannelMessage) return TooLarge(size);
  std::string frame;
  frame.reserve(kHeader + size);
  for (size_t i = 0; i < kHeader; ++i) frame.push_back(static_cast<char>((size >> (8 * i)) & 0xFF));
  if (!message.AppendToString(&frame)) {
    return absl::InvalidArgumentError("the side channel message cannot be serialized");
  }
  return frame;
}

void SideChannelDecoder::Append(std::string_view bytes) {
  buffer_.erase(0, position_);
  position_ = 0;
  buffer_.append(bytes);
}

absl::StatusOr<std::optional<std::string>> SideChannelDecoder::Next() {
  const std::string_view left = std::string_view(buffer_).substr(position_);
  if (left.size() < kHeader) return std::nullopt;
  size_t size = 0;
  for (size_t i = 0; i < kHeader; ++i) {
    size |= static_cast<size_t>(static_cast<unsigned char>(left[i])) << (8 * i);
  }
  if (size > kMaxSideChannelMessage) return TooLarge(size);
  if (left.size() - kHeader < size) return std::nullopt;
  position_ += kHeader + size;
  return std::string(left.substr(kHeader, size));
}

}  // namespace runloop

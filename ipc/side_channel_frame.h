#ifndef RUNLOOP_IPC_SIDE_CHANNEL_FRAME_H_
#define RUNLOOP_IPC_SIDE_CHANNEL_FRAME_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message_lite.h"

namespace runloop {

// The framing of the side channel (side_channel.proto), for both ends.

// What the connecting side sends first.
inline constexpr std::string_view kSideChannelMagic = "RUNLOOP1";
// Bytes of one message.
inline constexpr size_t kMaxSideChannelMessage = 65536;

// `message` with its length before it. INVALID_ARGUMENT if it is larger than
// kMaxSideChannelMessage.
absl::StatusOr<std::string> EncodeSideChannelFrame(const google::protobuf::MessageLite& message);

// Cuts what arrives into messages. Fed with whatever a read gave, it holds at most one incomplete
// frame beside what it was fed and has not given out. The bytes are a peer's: a length above the
// bound is refused before anything is stored for it. Does not know the magic: the caller takes that
// off. Not thread-safe.
class SideChannelDecoder {
 public:
  void Append(std::string_view bytes);

  // The next complete message, serialized, or nullopt until more bytes arrive. INVALID_ARGUMENT if
  // the peer announces one that is too large: the connection is of no more use, and every later
  // call says so again.
  absl::StatusOr<std::optional<std::string>> Next();

  // True while part of a frame has arrived.
  bool in_frame() const { return position_ < buffer_.size(); }

 private:
  std::string buffer_;
  size_t position_ = 0;  // of the first byte that was not given out
};

}  // namespace runloop

#endif  // RUNLOOP_IPC_SIDE_CHANNEL_FRAME_H_

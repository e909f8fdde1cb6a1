#ifndef RUNLOOP_DAEMON_SESSION_REQUEST_READER_H_
#define RUNLOOP_DAEMON_SESSION_REQUEST_READER_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "runloop/v1/session.pb.h"

namespace runloop::daemon {

// PROTOCOL_VIOLATION, which ends the stream.
absl::Status Violation(absl::string_view what);

// A v1.Dispatch in what was read, whose bytes it points to.
struct DispatchView {
  uint64_t invocation_id = 0;
  uint32_t operation_id = 0;  // 0: none; `message` may name it
  std::string_view request;
  bool has_timeout = false;
  int64_t timeout_seconds = 0;
  int32_t timeout_nanos = 0;
  bool reply_wanted = false;
  uint32_t call_site_id = 0;  // 0: none
  uint32_t batch_size = 0;    // not 0: a batch begins with it
  bool stop_at_failure = false;
  // For the fields that few dispatches have: a name, a chain, a key, a delay, a trace context.
  // Null: it has none of them.
  const v1::Dispatch* message = nullptr;
};

// Reads the messages of session streams, one at a time, which come from peers. What floods hold,
// dispatches of few fields, is read where it lies; the rest, and a message with any other dispatch,
// by protobuf.
//
// How much a message holds is checked before anything is made of it, since a few bytes may stand
// for an item that takes a hundred in memory. Of each kind of item it may hold twice
// `max_unfinished`, and 1024 in any case; of messages inside it, unknown fields and offered
// transports (message_items.h), four times as many.
class SessionRequestReader {
 public:
  explicit SessionRequestReader(int64_t max_unfinished);

  // An error is a violation. What was read before is gone.
  absl::Status Read(grpc::ByteBuffer& bytes);
  // The same; views refer to `bytes`.
  absl::Status Read(std::string_view bytes);
  // What was read is gone. Memory is kept, but for a lot.
  void Clear();
  // Keeps no memory.
  void Trim();

  const std::vector<DispatchView>& dispatches() const { return dispatches_; }
  // Without the dispatches, or with them.
  const v1::SessionRequest& rest() const { return rest_; }

 private:
  absl::Status ReadFlat(std::string_view bytes);
  // Reads a message of few fields; false: it is not one, or too long.
  bool ReadSimple(std::string_view bytes, std::string& rest);
  absl::Status Parse(std::string_view bytes);
  std::optional<std::string_view> Flatten(grpc::ByteBuffer& bytes);

  const int64_t most_;
  std::vector<grpc::Slice> slices_;  // what the views point to, or flat_
  std::string flat_;
  std::vector<DispatchView> dispatches_;
  v1::SessionRequest rest_;
  size_t parsed_bytes_ = 0;  // about what rest_ keeps
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_REQUEST_READER_H_

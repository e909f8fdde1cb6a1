#ifndef RUNLOOP_CLIENT_REQUEST_WRITER_H_
#define RUNLOOP_CLIENT_REQUEST_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "google/protobuf/message_lite.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/slice.h"
#include "runloop/runtime/call_site.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {

// `message` as bytes that can be shared, not copied.
grpc::Slice SerializeToSlice(const google::protobuf::MessageLite& message);

// A v1.SessionRequest with dispatches and cancels that is written in wire format as they come, so
// that a flood costs one copy of each small request and no copy of a large one. Not thread-safe.
class RequestWriter {
 public:
  struct Dispatch {
    uint64_t invocation_id = 0;
    // Stands for the name if it is not 0.
    uint32_t operation_id = 0;
    // ASCII.
    std::string operation_name;
    // InfiniteDuration: none. Else positive.
    absl::Duration timeout = absl::InfiniteDuration();
    bool reply_wanted = false;
    CallSite call_site;
    // Stands for it in this session; 0: nothing does.
    uint32_t call_site_id = 0;
    // Of a batch: sent with the first.
    uint32_t batch_size = 0;
    bool stop_at_failure = false;
    // UTF-8.
    std::string coalesce_key;
    // Fields of a v1.Dispatch, in wire format, that go along as they are: those that few
    // dispatches have, a chain, a delay and a trace context.
    std::string more_fields;
    // The request: in wire format, or, if it is not null, a message that is written when this is
    // added. Its size is `message_size`, and it has cached it.
    std::optional<grpc::Slice> request;
    const google::protobuf::MessageLite* message = nullptr;
    size_t message_size = 0;

    // Refers to a small one; makes bytes of a large one at once.
    void SetRequest(const google::protobuf::MessageLite& given);
    size_t request_size() const {
      if (message != nullptr) return message_size;
      return request.has_value() ? request->size() : 0;
    }
    // Needs the message no longer.
    void OwnRequest();
  };

  // How many bytes AddDispatch will add.
  static size_t SizeOf(const Dispatch& dispatch);

  void AddDispatch(const Dispatch& dispatch);
  void AddCancel(uint64_t invocation_id, bool give_up = false);
  // One of a repeated field of v1.SessionRequest.
  void AddMessage(int field, const google::protobuf::MessageLite& message);
  void AddOutcomesReceived(uint64_t count);

  // It holds nothing else.
  bool of_subscriptions = false;

  size_t size() const { return size_; }
  // Of all but dispatches.
  size_t cancels() const { return cancels_; }
  // The largest id dispatched; 0 if none is.
  uint64_t last_id() const { return last_id_; }

  // The message, which refers to the writer's memory.
  grpc::ByteBuffer Share();
  // Adds the message to `pieces`, as it lies here.
  void AppendPieces(std::vector<std::string_view>& pieces);
  // Empty again, and with memory for as much as before, which nobody else may refer to any more.
  void Clear();

 private:
  // Where the next `size` bytes are to be written.
  uint8_t* Extend(size_t size);
  void FlushTail();

  std::vector<grpc::Slice> slices_;
  // What comes after slices_ is from tail_begin_ to tail_end_ in the chunk.
  grpc::Slice chunk_;
  size_t tail_begin_ = 0;
  size_t tail_end_ = 0;
  size_t size_ = 0;
  size_t cancels_ = 0;
  uint64_t last_id_ = 0;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_REQUEST_WRITER_H_

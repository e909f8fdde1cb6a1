#ifndef RUNLOOP_RUNTIME_BUFFER_H_
#define RUNLOOP_RUNTIME_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runloop/v1/buffers.pb.h"

namespace runloop {

namespace internal {

struct BufferNotice;

// What a Buffer is made of.
struct BufferView {
  uint8_t* data = nullptr;
  size_t size = 0;
  bool writable = false;
  uint64_t id = 0;                       // 0: it has none, and its bytes travel in messages
  size_t offset = 0;                     // of `data` in what the id names
  const BufferNotice* notice = nullptr;  // of the host, for the worker; null: it gives none
  std::shared_ptr<const void> keeps;     // the memory; what the last reference to it does
};

}  // namespace internal

// Memory that a worker and the host of a runtime both see, for payloads that should not travel in
// messages. The same type on both sides:
//
//   // a worker, in another process or the runtime's own
//   absl::StatusOr<runloop::Buffer> frame = context.NewBuffer(size);
//   Draw(frame->mutable_data());
//   *request.mutable_pixels() = frame->ref();                  // a runloop.v1.BufferRef field
//   context.DispatchBlocking<Reply>("acme.v1.Encoder/Encode", request);
//
//   // the operation's handler
//   absl::StatusOr<runloop::Buffer> pixels = context.OpenBuffer(request.pixels());
//   Encode(pixels->data());
//
// From another process it is shared memory; in process plain memory; where the connection carries
// no file descriptors the bytes travel in the BufferRef. The code is the same.
//
// Trust: a span is untrusted for ever. Its writer, in another process, may change any byte at any
// time, also between two reads of the same one. What is only copied or drawn, such as pixels, can
// be read where it is. What decides anything, such as a length, an offset or an index, is to be
// copied out first, and checked and used in the copy. It can neither shrink nor go away: reading it
// never faults.
//
// A value: cheap to copy; copies mean the same memory, which stays mapped until the last of them is
// gone, whatever happens to the session. Distinct Buffers may be used from distinct threads; who
// reads and who writes the memory when is for the users to agree on.
//
// Lifetime: a worker keeps its Buffer until every operation that it named it to has its outcome,
// since the id is good only until the last copy in the worker is gone or the session ends. An
// operation that holds a Buffer keeps the memory, also after that: a worker is not given the memory
// for another buffer before.
class Buffer {
 public:
  // Of size 0.
  Buffer() = default;
  explicit Buffer(internal::BufferView view) : view_(std::move(view)) {}

  // Memory of this process alone, whose bytes travel in the message.
  static Buffer OfBytes(std::string bytes);

  size_t size() const { return view_.size; }
  absl::Span<const uint8_t> data() const { return {view_.data, view_.size}; }
  bool writable() const { return view_.writable; }
  // Empty unless it is writable.
  absl::Span<uint8_t> mutable_data() const {
    return {view_.data, view_.writable ? view_.size : size_t{0}};
  }

  // In a worker of another process: an operation holds it now, and so may still read what is
  // written to it. For who writes to one buffer again and again; NewBuffer looks by itself.
  bool held_by_operation() const;

  // Names the whole, or a piece, for a message. A piece that does not lie within it is refused by
  // whoever opens it.
  v1::BufferRef ref() const { return ref(0, size()); }
  v1::BufferRef ref(size_t offset, size_t length) const;

 private:
  friend uint64_t BufferId(const Buffer& buffer);

  internal::BufferView view_;
};

// 0 if it travels in messages.
inline uint64_t BufferId(const Buffer& buffer) { return buffer.view_.id; }

namespace internal {

// The piece that `ref` names. `find` gives the whole of an id. INVALID_ARGUMENT (INVALID_REQUEST):
// the piece does not lie within it. `ref` is a peer's claim.
absl::StatusOr<Buffer> OpenPiece(v1::BufferRef ref,
                                 absl::FunctionRef<absl::StatusOr<BufferView>(uint64_t id)> find);

}  // namespace internal
}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_BUFFER_H_

#include "runloop/runtime/buffer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/buffer_memory.h"
#include "runloop/runtime/error.h"

namespace runloop {
namespace {

absl::Status NotWithin(const v1::BufferRef& ref, size_t size) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                   absl::StrCat("the piece of ", ref.length(), " bytes at ", ref.offset(),
                                " does not lie within the buffer, which has ", size));
}

}  // namespace

Buffer Buffer::OfBytes(std::string bytes) {
  auto owned = std::make_shared<std::string>(std::move(bytes));
  return Buffer({.data = reinterpret_cast<uint8_t*>(owned->data()),
                 .size = owned->size(),
                 .writable = true,
                 .keeps = owned});
}

bool Buffer::held_by_operation() const {
  return view_.notice != nullptr && view_.notice->held.load(std::memory_order_acquire) != 0;
}

v1::BufferRef Buffer::ref(size_t offset, size_t length) const {
  v1::BufferRef ref;
  ref.set_length(length);
  if (view_.id != 0) {
    ref.set_buffer(view_.id);
    ref.set_offset(view_.offset + offset);
    return ref;
  }
  // What is missing shows by the length.
  const size_t from = std::min(offset, size());
  ref.set_bytes(reinterpret_cast<const char*>(view_.data) + from, std::min(length, size() - from));
  return ref;
}

namespace internal {

absl::StatusOr<Buffer> OpenPiece(v1::BufferRef ref,
                                 absl::FunctionRef<absl::StatusOr<BufferView>(uint64_t id)> find) {
  const uint64_t offset = ref.offset(), length = ref.length();
  if (ref.source_case() != v1::BufferRef::kBuffer) {
    if (offset != 0 || length != ref.bytes().size()) return NotWithin(ref, ref.bytes().size());
    return Buffer::OfBytes(std::move(*ref.mutable_bytes()));
  }
  absl::StatusOr<BufferView> whole = find(ref.buffer());
  if (!whole.ok()) return whole.status();
  if (offset > whole->size || length > whole->size - offset) return NotWithin(ref, whole->size);
  whole->data += offset;
  whole->offset += offset;
  whole->size = length;
  return Buffer(*std::move(whole));
}

}  // namespace internal
}  // namespace runloop

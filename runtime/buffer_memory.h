#ifndef RUNLOOP_RUNTIME_BUFFER_MEMORY_H_
#define RUNLOOP_RUNTIME_BUFFER_MEMORY_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runloop/runtime/bounds.h"
#include "runloop/runtime/buffer.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop::internal {

// True for a descriptor beyond the half of those that the process may have, which is what buffers
// and what peers send may take: the kernel gives the lowest number.
bool IsScarce(int fd);

// A buffer is rounded up to whole pages of this size, on any machine.
inline constexpr size_t kBufferPage = 4096;

// What the host says of a buffer, in the page behind it. Whoever maps that for writing can spoil
// it, and with it only what it itself reuses: the host never reads it.
struct BufferNotice {
  std::atomic<uint32_t> held;      // how often operations hold it now
  std::atomic<uint32_t> released;  // 1: its owner has released it
};

// A mapping of a file. Movable; any thread.
class MappedMemory {
 public:
  MappedMemory() = default;
  static absl::StatusOr<MappedMemory> Map(int fd, size_t size, bool writable);
  MappedMemory(MappedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedMemory& operator=(MappedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedMemory();

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  MappedMemory(uint8_t* data, size_t size) : data_(data), size_(size) {}

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Room that something takes of its session's account, its user's and the total; given back with it.
class BufferCharge {
 public:
  using Accounts = std::array<std::shared_ptr<Account>, 3>;  // null where there is none

  BufferCharge(Accounts accounts, int64_t items, int64_t bytes);
  BufferCharge(BufferCharge&& other) noexcept
      : accounts_(std::exchange(other.accounts_, Accounts())),
        items_(other.items_),
        bytes_(other.bytes_) {}
  BufferCharge& operator=(BufferCharge&&) = delete;
  ~BufferCharge();

 private:
  Accounts accounts_;
  const int64_t items_;
  const int64_t bytes_;
};

// The memory of one buffer, on the side that made it. Shared by the registry and the operations
// that hold it; unmapped, and given back to the account, with the last of them. Any thread.
class BufferMemory {
 public:
  // Sealed shared memory of `size` bytes, whole pages, zero. RESOURCE_EXHAUSTED (BUFFERS_FULL): the
  // kernel gives none, or descriptors are scarce.
  static absl::StatusOr<std::shared_ptr<BufferMemory>> CreateShared(size_t size,
                                                                    BufferCharge charge);
  // Memory of this process alone.
  static absl::StatusOr<std::shared_ptr<BufferMemory>> CreateLocal(size_t size,
                                                                   BufferCharge charge);
  ~BufferMemory();
  BufferMemory(const BufferMemory&) = delete;
  BufferMemory& operator=(const BufferMemory&) = delete;

  size_t size() const { return size_; }
  // -1: memory of this process alone.
  int fd() const { return file_.get(); }
  bool shared() const { return file_.valid(); }

  // From now on nobody maps it for writing; who has keeps that mapping. Needs to be asked before it
  // is given to anybody who may only read. FAILED_PRECONDITION: its owner has sealed it otherwise.
  absl::Status SealForReaders();
  // Nobody can change what may be mapped any more. FAILED_PRECONDITION: it is sealed for readers.
  absl::Status SealForWriters();

  // What an operation holds, until the last copy of `keeps`.
  static BufferView Hold(const std::shared_ptr<BufferMemory>& memory, uint64_t id, bool writable);
  // The owner has released it: peers may drop their mappings.
  void NoteReleased();

 private:
  class Holder;

  BufferMemory(size_t size, BufferCharge charge) : size_(size), charge_(std::move(charge)) {}
  BufferNotice* notice() const;

  const size_t size_;
  const BufferCharge charge_;
  UniqueFd file_;
  MappedMemory mapping_;     // of the file, with its notice
  uint8_t* data_ = nullptr;  // in mapping_, or of malloc
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_BUFFER_MEMORY_H_

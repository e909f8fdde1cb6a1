#ifndef RUNLOOP_IPC_RING_H_
#define RUNLOOP_IPC_RING_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runloop/runtime/buffer_memory.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop {

// The ring transport's memory (docs/rings.md): two rings of bytes that two processes share, one in
// each direction, and what each side says of itself. Whatever lies in it may be changed by the
// other side at any time: each number is read once, into private memory, and checked there; bytes
// are copied out before anything looks at them.

// Bytes of one ring: a power of two between these.
inline constexpr size_t kMinRingBytes = 4096;
inline constexpr size_t kMaxRingBytes = size_t{16} << 20;
bool IsRingSize(uint64_t bytes);

// The bytes of one ring that are in use: those from `head`, which its reader moves, to `tail`,
// which its writer moves. Both count bytes from the beginning of time.
struct RingCounters {
  alignas(64) std::atomic<uint64_t> tail;
  alignas(64) std::atomic<uint64_t> head;
};

// The first page of the memory. Then come the bytes of the requests' ring, then the responses'.
struct RingHeader {
  RingCounters requests;   // written by the worker, read by the daemon
  RingCounters responses;  // the other way round
  // What a side that sleeps wants to be woken for: a sum of RingWants. The other side takes it to 0
  // before it rings.
  alignas(64) std::atomic<uint32_t> worker_wants;
  alignas(64) std::atomic<uint32_t> daemon_wants;
};
static_assert(sizeof(RingHeader) <= internal::kBufferPage &&
              std::atomic<uint64_t>::is_always_lock_free &&
              std::atomic<uint32_t>::is_always_lock_free);

enum RingWants : uint32_t {
  kWantsBytes = 1,  // something to read
  kWantsRoom = 2,   // half of what this side writes into is free
};

// Reads messages: a length of four bytes, little-endian, and then so many bytes. Not thread-safe.
class RingReader {
 public:
  // `bytes` has a size that IsRingSize. Messages have `max_message` bytes at most.
  RingReader(RingCounters& counters, absl::Span<const uint8_t> bytes, uint64_t max_message)
      : counters_(counters), bytes_(bytes), max_message_(max_message) {}

  // The next message, good until the next call, if all of it has arrived; else what has arrived of
  // it is kept. Takes at most `budget` bytes out of the ring, and counts them off: with none left
  // it may be that there is more. An error: the other side broke the rules, and the ring is of no
  // more use.
  absl::StatusOr<std::optional<std::string_view>> Next(size_t& budget);
  absl::StatusOr<std::optional<std::string_view>> Next() {
    size_t any = std::numeric_limits<size_t>::max();
    return Next(any);
  }
  // What was given out is not used any more: gives its memory back, if it was a long message.
  void Release();

  // True if something has arrived that Next has not looked at. Cheap.
  bool has_bytes() const { return counters_.tail.load(std::memory_order_seq_cst) != head_; }
  // How many bytes were taken out so far.
  uint64_t position() const { return head_; }
  // Something was taken out of the ring since the last call, and half of it is free: who wants room
  // is to be woken.
  bool TakeMadeRoom();
  // What a long message takes, all of which has not arrived or was not released; 0 if there is
  // none.
  size_t long_bytes() const;

 private:
  // False: there is nothing.
  absl::StatusOr<bool> Fill(size_t& budget);

  RingCounters& counters_;
  const absl::Span<const uint8_t> bytes_;
  const uint64_t max_message_;
  uint64_t head_ = 0;
  bool took_ = false;
  // What was taken out; the messages up to at_ were given out.
  std::string taken_;
  size_t at_ = 0;
  bool broken_ = false;
};

// Writes messages. Not thread-safe.
class RingWriter {
 public:
  RingWriter(RingCounters& counters, absl::Span<uint8_t> bytes)
      : counters_(counters), bytes_(bytes) {}

  // Takes one message, in pieces, and writes as much of it as there is room for. Only when nothing
  // is left of the one before. An error: the other side broke the rules.
  absl::Status Write(absl::Span<const std::string_view> pieces);
  // Writes more of what is left.
  absl::Status Flush();

  // How many bytes were written so far.
  uint64_t position() const { return tail_; }
  // Bytes that have found no room yet.
  size_t left() const { return rest_.size() - rest_at_; }
  // True if there is room for some of them. Cheap.
  bool has_room() const {
    return tail_ - counters_.head.load(std::memory_order_seq_cst) < bytes_.size();
  }
  // How many bytes the other side has read, as it says.
  uint64_t read_position() const { return counters_.head.load(std::memory_order_relaxed); }
  // Something that was written has not been read.
  bool has_unread() const { return counters_.head.load(std::memory_order_relaxed) != tail_; }
  // Something was written since the last call: who wants bytes is to be woken.
  bool TakeWrote() { return std::exchange(wrote_, false); }

 private:
  // How many more bytes there is room for.
  absl::StatusOr<size_t> Room();
  void Put(std::string_view bytes);
  void Publish();

  RingCounters& counters_;
  const absl::Span<uint8_t> bytes_;
  uint64_t tail_ = 0;
  uint64_t known_head_ = 0;  // at least so much was read
  bool wrote_ = false;
  std::string rest_;
  size_t rest_at_ = 0;
};

// One side's end of the memory. Sleeping and waking: a side announces what it wants to be woken
// for, looks once more, and sleeps; the other side, after each thing that it does, looks whether
// that is wanted. Both steps are sequentially consistent, so they are never both wrong.
class RingEnd {
 public:
  enum class Side { kWorker, kDaemon };

  // `header` and what follows it are mapped for as long as this exists.
  RingEnd(Side side, RingHeader& header, size_t request_bytes, size_t response_bytes,
          uint64_t max_message);

  RingReader& reader() { return reader_; }
  const RingReader& reader() const { return reader_; }
  RingWriter& writer() { return writer_; }
  const RingWriter& writer() const { return writer_; }

  // Announces that this side sleeps, until there is room for what is left to write, or, if it
  // `reads`, something to read; false: there is one of them.
  bool AnnounceSleep(bool reads = true);
  // For a side whose reader and writer are two threads: what is left to write wants room from now
  // on. The writer's; so is what says true if the other side is to be woken after writing, and the
  // reader's after reading.
  void WantRoom() { own_wants_.fetch_or(kWantsRoom, std::memory_order_seq_cst); }
  bool TakeWriteBell() { return writer_.TakeWrote() && TakeWanted(kWantsBytes); }
  bool TakeReadBell() { return reader_.TakeMadeRoom() && TakeWanted(kWantsRoom); }
  // After both: true if the other side is to be woken.
  bool TakeBell();
  // The other side sleeps, as it says.
  bool other_sleeps() const { return other_wants_.load(std::memory_order_relaxed) != 0; }

 private:
  // What else it wanted is taken, too, so it is woken in any case.
  bool TakeWanted(uint32_t done) {
    return (other_wants_.load(std::memory_order_seq_cst) & done) != 0 &&
           other_wants_.exchange(0, std::memory_order_seq_cst) != 0;
  }

  std::atomic<uint32_t>& own_wants_;
  std::atomic<uint32_t>& other_wants_;
  RingReader reader_;
  RingWriter writer_;
};

// The memory, mapped into this process.
class RingMemory {
 public:
  // Sealed shared memory, zero, whose pages the kernel makes when they are first used. Both sizes
  // IsRingSize. RESOURCE_EXHAUSTED: the kernel gives none.
  static absl::StatusOr<RingMemory> Create(size_t request_bytes, size_t response_bytes);
  // What another process created. INVALID_ARGUMENT: it is not of this size, or could shrink.
  static absl::StatusOr<RingMemory> Map(UniqueFd fd, uint64_t request_bytes,
                                        uint64_t response_bytes);

  static size_t SizeOf(size_t request_bytes, size_t response_bytes) {
    return internal::kBufferPage + request_bytes + response_bytes;
  }

  RingHeader& header() const { return *reinterpret_cast<RingHeader*>(mapping_.data()); }
  size_t request_bytes() const { return request_bytes_; }
  size_t response_bytes() const { return response_bytes_; }
  RingEnd NewEnd(RingEnd::Side side, uint64_t max_message) const {
    return RingEnd(side, header(), request_bytes_, response_bytes_, max_message);
  }
  // The file, once; it need not stay open.
  UniqueFd TakeFile() { return std::move(file_); }

 private:
  RingMemory(internal::MappedMemory mapping, UniqueFd file, size_t request_bytes,
             size_t response_bytes)
      : mapping_(std::move(mapping)),
        file_(std::move(file)),
        request_bytes_(request_bytes),
        response_bytes_(response_bytes) {}

  internal::MappedMemory mapping_;
  UniqueFd file_;
  size_t request_bytes_;
  size_t response_bytes_;
};

}  // namespace runloop

#endif  // RUNLOOP_IPC_RING_H_

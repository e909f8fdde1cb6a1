#include "runloop/ipc/ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace runloop {
namespace {

constexpr size_t kLengthBytes = 4;
// What is taken out of a ring at once, unless a message needs more: it is soon looked at, and the
// other side can go on writing.
constexpr size_t kTakenAtOnce = size_t{8} << 10;
// A message is a long one if it has more bytes.
constexpr size_t kLong = size_t{64} << 10;
// What is kept of the private memory when it was needed for a long message.
constexpr size_t kKept = size_t{64} << 10;

uint64_t DecodeLength(const char* bytes) {
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  }
  return length;
}

absl::Status Broken(std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("ring: ", std::string(what)));
}

absl::Status NoMemory(const char* what) {
  return absl::ResourceExhaustedError(
      absl::StrCat("no ring could be made: ", what, ": ", std::strerror(errno)));
}

}  // namespace

bool IsRingSize(uint64_t bytes) {
  return bytes >= kMinRingBytes && bytes <= kMaxRingBytes && std::has_single_bit(bytes);
}

// ---- reading ----

absl::StatusOr<std::optional<std::string_view>> RingReader::Next(size_t& budget) {
  if (broken_) return Broken("it is broken");
  while (true) {
    const size_t there = taken_.size() - at_;
    if (there >= kLengthBytes) {
      const uint64_t length = DecodeLength(taken_.data() + at_);
      if (length > max_message_) {
        broken_ = true;
        return Broken(
            absl::StrCat("it announced a message of ", length, " bytes; at most ", max_message_));
      }
      if (there - kLengthBytes >= length) {
        const std::string_view message(taken_.data() + at_ + kLengthBytes, length);
        at_ += kLengthBytes + length;
        return message;
      }
    }
    const absl::StatusOr<bool> filled = Fill(budget);
    if (!filled.ok()) return filled.status();
    if (!*filled) return std::nullopt;
  }
}

void RingReader::Release() {
  if (at_ == 0) return;
  // What is left is the beginning of a message, a long one that grows, or messages behind one that
  // was given out.
  taken_.erase(0, at_);
  at_ = 0;
  if (taken_.capacity() > kKept && taken_.size() < kTakenAtOnce) {
    taken_ = std::string(taken_.data(), taken_.size());
  }
}

absl::StatusOr<bool> RingReader::Fill(size_t& budget) {
  Release();
  if (budget == 0) return false;
  const uint64_t tail = counters_.tail.load(std::memory_order_acquire);
  const uint64_t arrived = tail - head_;
  if (arrived == 0) return false;
  if (arrived > bytes_.size()) {
    broken_ = true;
    return Broken("its tail jumped");
  }
  const size_t most = taken_.size() < kTakenAtOnce ? kTakenAtOnce : bytes_.size();
  const auto count = static_cast<size_t>(std::min<uint64_t>({arrived, most, budget}));
  budget -= count;
  const auto from = static_cast<size_t>(head_ & (bytes_.size() - 1));
  const size_t first = std::min(count, bytes_.size() - from);
  taken_.append(reinterpret_cast<const char*>(bytes_.data()) + from, first);
  taken_.append(reinterpret_cast<const char*>(bytes_.data()), count - first);
  head_ += count;
  took_ = true;
  // What it was copied from may be written again from here on.
  counters_.head.store(head_, std::memory_order_seq_cst);
  return true;
}

bool RingReader::TakeMadeRoom() {
  if (!took_) return false;
  const uint64_t arrived = counters_.tail.load(std::memory_order_relaxed) - head_;
  if (arrived > bytes_.size() / 2) return false;
  took_ = false;
  return true;
}

size_t RingReader::long_bytes() const { return taken_.size() > kLong ? taken_.size() : 0; }

// ---- writing ----

absl::StatusOr<size_t> RingWriter::Room() {
  const uint64_t head = counters_.head.load(std::memory_order_acquire);
  // Neither what was not written can have been read, nor can what was read be unread.
  if (tail_ - head > tail_ - known_head_) return Broken("its head jumped");
  known_head_ = head;
  return bytes_.size() - static_cast<size_t>(tail_ - head);
}

void RingWriter::Put(std::string_view bytes) {
  const auto to = static_cast<size_t>(tail_ & (bytes_.size() - 1));
  const size_t first = std::min(bytes.size(), bytes_.size() - to);
  std::memcpy(bytes_.data() + to, bytes.data(), first);
  std::memcpy(bytes_.data(), bytes.data() + first, bytes.size() - first);
  tail_ += bytes.size();
}

void RingWriter::Publish() {
  wrote_ = true;
  counters_.tail.store(tail_, std::memory_order_seq_cst);
}

absl::Status RingWriter::Write(absl::Span<const std::string_view> pieces) {
  uint64_t length = 0;
  for (const std::string_view piece : pieces) length += piece.size();
  char prefix[kLengthBytes];
  for (size_t i = 0; i < kLengthBytes; ++i) prefix[i] = static_cast<char>(length >> (8 * i));

  size_t room = bytes_.size() - static_cast<size_t>(tail_ - known_head_);
  if (room < kLengthBytes + length) {
    const absl::StatusOr<size_t> now = Room();
    if (!now.ok()) return now.status();
    room = *now;
  }
  const bool fits = room > 0;
  const auto put = [&](std::string_view bytes) {
    const std::string_view now = bytes.substr(0, room);
    if (!now.empty()) Put(now);
    room -= now.size();
    if (now.size() < bytes.size()) rest_.append(bytes.substr(now.size()));
  };
  put(std::string_view(prefix, kLengthBytes));
  for (const std::string_view piece : pieces) put(piece);
  if (fits) Publish();
  return absl::OkStatus();
}

absl::Status RingWriter::Flush() {
  if (left() == 0) return absl::OkStatus();
  const absl::StatusOr<size_t> room = Room();
  if (!room.ok()) return room.status();
  const std::string_view now = std::string_view(rest_).substr(rest_at_, *room);
  if (now.empty()) return absl::OkStatus();
  Put(now);
  rest_at_ += now.size();
  Publish();
  if (left() > 0) return absl::OkStatus();
  rest_at_ = 0;
  if (rest_.capacity() > kKept) {
    rest_ = std::string();
  } else {
    rest_.clear();
  }
  return absl::OkStatus();
}

// ---- both ----

RingEnd::RingEnd(Side side, RingHeader& header, size_t request_bytes, size_t response_bytes,
                 uint64_t max_message)
    : own_wants_(side == Side::kWorker ? header.worker_wants : header.daemon_wants),
      other_wants_(side == Side::kWorker ? header.daemon_wants : header.worker_wants),
      reader_(side == Side::kWorker ? header.responses : header.requests,
              side == Side::kWorker
                  ? absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&header) +
                                            internal::kBufferPage + request_bytes,
                                        response_bytes)
                  : absl::MakeConstSpan(
                        reinterpret_cast<const uint8_t*>(&header) + internal::kBufferPage,
                        request_bytes),
              max_message),
      writer_(side == Side::kWorker ? header.requests : header.responses,
              side == Side::kWorker
                  ? absl::MakeSpan(reinterpret_cast<uint8_t*>(&header) + internal::kBufferPage,
                                   request_bytes)
                  : absl::MakeSpan(
                        reinterpret_cast<uint8_t*>(&header) + internal::kBufferPage + request_bytes,
                        response_bytes)) {}

bool RingEnd::AnnounceSleep(bool reads) {
  const bool writes = writer_.left() > 0;
  own_wants_.store((reads ? kWantsBytes : 0u) | (writes ? kWantsRoom : 0u),
                   std::memory_order_seq_cst);
  if (!(reads && reader_.has_bytes()) && !(writes && writer_.has_room())) return true;
  own_wants_.store(0, std::memory_order_relaxed);
  return false;
}

bool RingEnd::TakeBell() {
  const uint32_t done =
      (writer_.TakeWrote() ? kWantsBytes : 0u) | (reader_.TakeMadeRoom() ? kWantsRoom : 0u);
  return done != 0 && TakeWanted(done);
}

absl::StatusOr<RingMemory> RingMemory::Create(size_t request_bytes, size_t response_bytes) {
  UniqueFd file(memfd_create("runloop-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.valid()) return NoMemory("memfd_create");
  if (internal::IsScarce(file.get())) {
    errno = EMFILE;
    return NoMemory("rings and buffers may take half of the descriptors");
  }
  const size_t size = SizeOf(request_bytes, response_bytes);
  if (ftruncate(file.get(), static_cast<off_t>(size)) != 0) return NoMemory("ftruncate");
  // Neither smaller, so that no access faults, nor sealed otherwise by the other side.
  if (fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return NoMemory("seal");
  }
  absl::StatusOr<internal::MappedMemory> mapping =
      internal::MappedMemory::Map(file.get(), size, true);
  if (!mapping.ok()) return mapping.status();
  return RingMemory(*std::move(mapping), std::move(file), request_bytes, response_bytes);
}

absl::StatusOr<RingMemory> RingMemory::Map(UniqueFd fd, uint64_t request_bytes,
                                           uint64_t response_bytes) {
  if (!IsRingSize(request_bytes) || !IsRingSize(response_bytes)) {
    return Broken(absl::StrCat(request_bytes, " and ", response_bytes, " bytes are no ring sizes"));
  }
  const size_t size = SizeOf(request_bytes, response_bytes);
  struct stat file;
  if (fstat(fd.get(), &file) != 0 || file.st_size != static_cast<off_t>(size) ||
      (fcntl(fd.get(), F_GET_SEALS) & F_SEAL_SHRINK) == 0) {
    return Broken("its memory is not sealed, or has another size than was said");
  }
  absl::StatusOr<internal::MappedMemory> mapping =
      internal::MappedMemory::Map(fd.get(), size, true);
  if (!mapping.ok()) return mapping.status();
  return RingMemory(*std::move(mapping), std::move(fd), request_bytes, response_bytes);
}

}  // namespace runloop

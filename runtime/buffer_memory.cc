#include "runloop/runtime/buffer_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

static_assert(sizeof(BufferNotice) == 8 && std::atomic<uint32_t>::is_always_lock_free);

absl::Status NoMemory(const char* what, int error) {
  return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_BUFFERS_FULL,
                   absl::StrCat("no buffer could be made: ", what, ": ", std::strerror(error)));
}

absl::Status Sealed(const char* how) {
  return absl::FailedPreconditionError(absl::StrCat("the buffer can no more be granted so: ", how));
}

}  // namespace

bool IsScarce(int fd) {
  rlimit limit;
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 && static_cast<rlim_t>(fd) >= limit.rlim_cur / 2;
}

absl::StatusOr<MappedMemory> MappedMemory::Map(int fd, size_t size, bool writable) {
  void* const data =
      mmap(nullptr, size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return NoMemory("mmap", errno);
  return MappedMemory(static_cast<uint8_t*>(data), size);
}

MappedMemory::~MappedMemory() {
  if (data_ != nullptr) munmap(data_, size_);
}

BufferCharge::BufferCharge(Accounts accounts, int64_t items, int64_t bytes)
    : accounts_(std::move(accounts)), items_(items), bytes_(bytes) {
  for (const std::shared_ptr<Account>& account : accounts_) {
    if (account != nullptr) account->Add(items_, bytes_);
  }
}

BufferCharge::~BufferCharge() {
  for (const std::shared_ptr<Account>& account : accounts_) {
    if (account != nullptr) account->Remove(items_, bytes_, false);
  }
}

absl::StatusOr<std::shared_ptr<BufferMemory>> BufferMemory::CreateShared(size_t size,
                                                                         BufferCharge charge) {
  std::shared_ptr<BufferMemory> memory(new BufferMemory(size, std::move(charge)));
  const size_t file_size = size + kBufferPage;
  memory->file_.Reset(memfd_create("runloop-buffer", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory->file_.valid()) return NoMemory("memfd_create", errno);
  const int fd = memory->file_.get();
  if (IsScarce(fd)) return NoMemory("buffers may take half of the descriptors", EMFILE);
  if (ftruncate(fd, static_cast<off_t>(file_size)) != 0) return NoMemory("ftruncate", errno);
  // Never smaller, so that no access faults; the other seals come when it is granted. This mapping
  // for writing is there as long as the memory, so that no peer can forbid all writing.
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) return NoMemory("seal", errno);
  absl::StatusOr<MappedMemory> mapping = MappedMemory::Map(fd, file_size, true);
  if (!mapping.ok()) return mapping.status();
  memory->mapping_ = *std::move(mapping);
  memory->data_ = memory->mapping_.data();
  return memory;
}

absl::StatusOr<std::shared_ptr<BufferMemory>> BufferMemory::CreateLocal(size_t size,
                                                                        BufferCharge charge) {
  std::shared_ptr<BufferMemory> memory(new BufferMemory(size, std::move(charge)));
  memory->data_ = static_cast<uint8_t*>(std::calloc(size, 1));
  if (memory->data_ == nullptr) return NoMemory("calloc", ENOMEM);
  return memory;
}

BufferMemory::~BufferMemory() {
  if (!shared()) std::free(data_);
}

BufferNotice* BufferMemory::notice() const {
  return reinterpret_cast<BufferNotice*>(data_ + size_);
}

absl::Status BufferMemory::SealForReaders() {
  const int seals = fcntl(fd(), F_GET_SEALS);
  if ((seals & F_SEAL_FUTURE_WRITE) != 0) return absl::OkStatus();
  if ((seals & F_SEAL_SEAL) != 0)
    return Sealed("somebody else may write to it, or its owner sealed it");
  if (fcntl(fd(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0) return absl::OkStatus();
  return Sealed(std::strerror(errno));
}

absl::Status BufferMemory::SealForWriters() {
  const int seals = fcntl(fd(), F_GET_SEALS);
  if ((seals & F_SEAL_FUTURE_WRITE) != 0) return Sealed("it was granted for reading only");
  if ((seals & F_SEAL_SEAL) != 0) return absl::OkStatus();
  if (fcntl(fd(), F_ADD_SEALS, F_SEAL_SEAL) == 0) return absl::OkStatus();
  return Sealed(std::strerror(errno));
}

// One operation's hold on shared memory.
class BufferMemory::Holder {
 public:
  explicit Holder(std::shared_ptr<BufferMemory> memory) : memory_(std::move(memory)) {
    memory_->notice()->held.fetch_add(1, std::memory_order_relaxed);
  }
  ~Holder() { memory_->notice()->held.fetch_sub(1, std::memory_order_release); }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

 private:
  const std::shared_ptr<BufferMemory> memory_;
};

BufferView BufferMemory::Hold(const std::shared_ptr<BufferMemory>& memory, uint64_t id,
                              bool writable) {
  BufferView view{.data = memory->data_, .size = memory->size_, .writable = writable, .id = id};
  if (memory->shared()) {
    view.keeps = std::make_shared<Holder>(memory);
  } else {
    view.keeps = memory;
  }
  return view;
}

void BufferMemory::NoteReleased() {
  if (shared()) notice()->released.store(1, std::memory_order_release);
}

}  // namespace runloop::internal

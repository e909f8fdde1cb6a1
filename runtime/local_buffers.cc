#include "runloop/runtime/local_buffers.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

namespace runloop::internal {

class LocalBuffers::Use {
 public:
  Use(const std::shared_ptr<BufferRegistry>& registry, const std::shared_ptr<Session>& session,
      const BufferRegistry::Found& found)
      : registry_(registry),
        session_(session),
        id_(found.id),
        owned_(found.owned),
        view_(BufferMemory::Hold(found.memory, found.id, found.writable)) {}
  ~Use() {
    const std::shared_ptr<BufferRegistry> registry = registry_.lock();
    const std::shared_ptr<Session> session = session_.lock();
    // Unknown by now if the session has ended.
    if (owned_ && registry != nullptr && session != nullptr && !session->ended()) {
      registry->Release(*session, id_).IgnoreError();
    }
  }

  const BufferView& view() const { return view_; }

 private:
  // Weak, since an object of the runtime's own may keep a buffer.
  const std::weak_ptr<BufferRegistry> registry_;
  const std::weak_ptr<Session> session_;
  const uint64_t id_;
  const bool owned_;
  const BufferView view_;
};

BufferView LocalBuffers::ViewOf(const BufferRegistry::Found& found) {
  std::shared_ptr<Use> use;
  {
    absl::MutexLock lock(&mutex_);
    const auto known = uses_.find(found.id);
    if (known != uses_.end()) use = known->second.lock();
    if (use == nullptr) {
      absl::erase_if(uses_, [](const auto& entry) { return entry.second.expired(); });
      use = std::make_shared<Use>(registry_, session_, found);
      uses_[found.id] = use;
    }
  }
  BufferView view = use->view();
  view.keeps = std::move(use);
  return view;
}

absl::StatusOr<Buffer> LocalBuffers::New(size_t size) {
  const absl::StatusOr<BufferRegistry::Found> made = registry_->Create(session_, size);
  if (!made.ok()) return made.status();
  return Buffer(ViewOf(*made));
}

absl::StatusOr<Buffer> LocalBuffers::Open(v1::BufferRef ref) {
  return OpenPiece(std::move(ref), [this](uint64_t id) -> absl::StatusOr<BufferView> {
    const absl::StatusOr<BufferRegistry::Found> found = registry_->Find(*session_, id);
    if (!found.ok()) return found.status();
    return ViewOf(*found);
  });
}

absl::StatusOr<uint64_t> LocalBuffers::SendDescriptor(int fd) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return absl::ErrnoToStatus(errno, "the descriptor cannot be duplicated");
  return registry_->AddDescriptor(session_, std::move(copy));
}

}  // namespace runloop::internal

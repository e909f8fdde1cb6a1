#include "runloop/client/session_buffers.h"

#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/client/daemon_channel.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

constexpr absl::Duration kAnswerTimeout = absl::Seconds(5);
// What is kept of buffers that nobody uses.
constexpr size_t kMaxIdle = 64;
constexpr size_t kMaxIdleBytes = size_t{256} << 20;
// Mappings of other sessions' buffers.
constexpr size_t kMaxForeign = 64;

absl::Status SessionEnded() { return NotConnected("the session has ended"); }

size_t RoundUp(size_t size, size_t step) { return (size + step - 1) / step * step; }

// The size that a buffer of `size` bytes is made with: eight to each power of two, so that frames
// of nearly one size use the same.
size_t SizeClass(size_t size, uint64_t most) {
  const size_t step = std::max(kBufferPage, std::bit_floor(size) / 8);
  const size_t rounded = RoundUp(size, step);
  return rounded <= most ? rounded : RoundUp(size, kBufferPage);
}

}  // namespace

class SessionBuffers::Use {
 public:
  Use(std::weak_ptr<SessionBuffers> buffers, Mapping mapping)
      : buffers_(std::move(buffers)), mapping_(std::move(mapping)) {}
  ~Use() {
    if (const std::shared_ptr<SessionBuffers> buffers = buffers_.lock()) {
      buffers->GiveBack(std::move(mapping_));
    }
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

  Mapping& mapping() { return mapping_; }

 private:
  const std::weak_ptr<SessionBuffers> buffers_;
  Mapping mapping_;
};

SessionBuffers::SessionBuffers(Address address, const v1::Welcome& welcome)
    : address_(std::move(address)),
      session_id_(welcome.session_id()),
      token_(welcome.side_channel_token()),
      max_bytes_(welcome.limits().max_buffer_bytes()) {}

SessionBuffers::~SessionBuffers() = default;

absl::StatusOr<std::shared_ptr<SideChannel>> SessionBuffers::Channel() {
  absl::StatusOr<std::shared_ptr<SideChannel>> known = AttachedChannel();
  if (!known.ok() || *known != nullptr) return known;
  absl::MutexLock attach(&attach_mutex_);
  known = AttachedChannel();  // by another thread
  if (!known.ok() || *known != nullptr) return known;
  absl::StatusOr<std::unique_ptr<SideChannel>> attached =
      SideChannel::Attach(address_, session_id_, token_, kAnswerTimeout);
  if (!attached.ok()) return attached.status();
  const std::shared_ptr<SideChannel> channel = *std::move(attached);
  absl::MutexLock lock(&mutex_);
  if (ended_) return SessionEnded();
  channel_ = channel;
  return channel;
}

absl::StatusOr<std::shared_ptr<SideChannel>> SessionBuffers::AttachedChannel() {
  absl::MutexLock lock(&mutex_);
  if (ended_) return SessionEnded();
  return channel_;
}

absl::StatusOr<SideChannel::Answer> SessionBuffers::Ask(const v1::SideChannelRequest& request,
                                                        int fd) {
  const absl::StatusOr<std::shared_ptr<SideChannel>> channel = Channel();
  if (!channel.ok()) return channel.status();
  absl::StatusOr<SideChannel::Answer> answer = (*channel)->Ask(request, fd);
  if (absl::IsUnavailable(answer.status())) {
    // The next who asks attaches another.
    absl::MutexLock lock(&mutex_);
    if (channel_ == *channel) channel_ = nullptr;
  }
  return answer;
}

absl::StatusOr<SessionBuffers::Mapping> SessionBuffers::Map(SideChannel::Answer answer) {
  const v1::BufferInfo& info = answer.response.buffer();
  struct stat file {};
  if (answer.fds.size() != 1 || info.buffer() == 0 || info.size() % kBufferPage != 0 ||
      fstat(answer.fds[0].get(), &file) != 0 || static_cast<uint64_t>(file.st_size) < kBufferPage ||
      info.size() > static_cast<uint64_t>(file.st_size) - kBufferPage) {
    return absl::InternalError("the daemon gave something else than a buffer");
  }
  absl::StatusOr<MappedMemory> memory =
      MappedMemory::Map(answer.fds[0].get(), info.size() + kBufferPage, info.writable());
  if (!memory.ok()) return memory.status();
  return Mapping{.id = info.buffer(),
                 .size = info.size(),
                 .writable = info.writable(),
                 .owned = info.owned(),
                 .memory = *std::move(memory)};
}

bool SessionBuffers::TakeIdle(size_t size, Mapping& mapping) {
  // The last one first: it is most likely in a cache, unless an operation still holds it.
  for (size_t i = idle_.size(); i-- > 0;) {
    if (idle_[i].size != size || idle_[i].notice().held.load(std::memory_order_acquire) != 0) {
      continue;
    }
    mapping = std::move(idle_[i]);
    idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(i));
    idle_bytes_ -= size;
    return true;
  }
  return false;
}

std::shared_ptr<SessionBuffers::Use> SessionBuffers::AddUse(Mapping mapping) {
  const uint64_t id = mapping.id;
  auto use = std::make_shared<Use>(weak_from_this(), std::move(mapping));
  uses_[id] = use;
  return use;
}

std::shared_ptr<SessionBuffers::Use> SessionBuffers::FindUse(uint64_t id) {
  const auto known = uses_.find(id);
  return known == uses_.end() ? nullptr : known->second.lock();
}

BufferView SessionBuffers::ViewOf(const std::shared_ptr<Use>& use) {
  const Mapping& mapping = use->mapping();
  return {.data = mapping.memory.data(),
          .size = mapping.size,
          .writable = mapping.writable,
          .id = mapping.id,
          .notice = &mapping.notice(),
          .keeps = use};
}

absl::StatusOr<Buffer> SessionBuffers::New(size_t size) {
  const size_t wanted = SizeClass(std::min(size, size_t{1} << 62), max_bytes_);
  std::shared_ptr<Use> use;
  {
    absl::MutexLock lock(&mutex_);
    Mapping mapping;
    if (size != 0 && TakeIdle(wanted, mapping)) use = AddUse(std::move(mapping));
  }
  if (use == nullptr) {
    v1::SideChannelRequest request;
    request.mutable_create_buffer()->set_size(wanted);
    absl::StatusOr<SideChannel::Answer> answer = Ask(request);
    if (ReasonOf(answer.status()) == v1::ERROR_REASON_BUFFERS_FULL) {
      // What is kept here may be what there is no room for.
      std::vector<Mapping> idle;
      {
        absl::MutexLock lock(&mutex_);
        std::move(idle_.begin(), idle_.end(), std::back_inserter(idle));
        idle_.clear();
        idle_bytes_ = 0;
      }
      if (!idle.empty()) {
        Release(std::move(idle));
        answer = Ask(request);
      }
    }
    if (!answer.ok()) return answer.status();
    const uint64_t id = answer->response.buffer().buffer();
    absl::StatusOr<Mapping> mapping = Map(*std::move(answer));
    if (mapping.ok() && (mapping->size < size || !mapping->writable || !mapping->owned)) {
      mapping = absl::InternalError("the daemon gave another buffer than it was asked for");
    }
    if (!mapping.ok()) {
      // Else it would count until the session ends.
      v1::SideChannelRequest release;
      release.mutable_release_buffer()->set_buffer(id);
      Ask(release).status().IgnoreError();
      return mapping.status();
    }
    absl::MutexLock lock(&mutex_);
    use = AddUse(*std::move(mapping));
  }
  BufferView view = ViewOf(use);
  view.size = size;
  return Buffer(std::move(view));
}

absl::StatusOr<Buffer> SessionBuffers::Open(v1::BufferRef ref) {
  return OpenPiece(std::move(ref), [this](uint64_t id) -> absl::StatusOr<BufferView> {
    {
      absl::MutexLock lock(&mutex_);
      if (const std::shared_ptr<Use> use = FindUse(id)) return ViewOf(use);
    }
    v1::SideChannelRequest request;
    request.mutable_open_buffer()->set_buffer(id);
    absl::StatusOr<SideChannel::Answer> answer = Ask(request);
    if (!answer.ok()) return answer.status();
    absl::StatusOr<Mapping> mapping = Map(*std::move(answer));
    if (!mapping.ok()) return mapping.status();
    std::vector<std::shared_ptr<Use>> dropped;  // without the lock
    absl::MutexLock lock(&mutex_);
    if (const std::shared_ptr<Use> use = FindUse(id)) return ViewOf(use);  // by another thread
    const bool foreign = !mapping->owned;
    const std::shared_ptr<Use> use = AddUse(*std::move(mapping));
    if (foreign) {
      // Read once: the other side writes it at any time, and what is dropped locks again.
      std::erase_if(foreign_, [&dropped](std::shared_ptr<Use>& other) {
        const bool stale = other->mapping().notice().released.load(std::memory_order_acquire) != 0;
        if (stale) dropped.push_back(std::move(other));
        return stale;
      });
      if (foreign_.size() >= kMaxForeign) {
        dropped.push_back(std::move(foreign_.front()));
        foreign_.pop_front();
      }
      foreign_.push_back(use);
    }
    return ViewOf(use);
  });
}

absl::Status SessionBuffers::Grant(const Buffer& buffer, const std::string& session_id,
                                   bool writable) {
  const uint64_t id = BufferId(buffer);
  v1::SideChannelRequest request;
  request.mutable_grant_buffer()->set_buffer(id);
  request.mutable_grant_buffer()->set_session_id(session_id);
  request.mutable_grant_buffer()->set_writable(writable);
  const absl::StatusOr<SideChannel::Answer> answer = Ask(request);
  absl::MutexLock lock(&mutex_);
  if (const std::shared_ptr<Use> use = FindUse(id)) use->mapping().granted = true;
  return answer.status();
}

absl::StatusOr<uint64_t> SessionBuffers::SendDescriptor(int fd) {
  v1::SideChannelRequest request;
  request.mutable_send_descriptor();
  const absl::StatusOr<SideChannel::Answer> answer = Ask(request, fd);
  if (!answer.ok()) return answer.status();
  return answer->response.descriptor_id();
}

void SessionBuffers::GiveBack(Mapping mapping) {
  std::vector<Mapping> released;
  {
    absl::MutexLock lock(&mutex_);
    const auto known = uses_.find(mapping.id);
    if (known != uses_.end()) {
      if (!known->second.expired()) return;  // another mapping of it is in use by now
      uses_.erase(known);
    }
    // The one is released with the session, the other by its owner.
    if (ended_ || !mapping.owned) return;
    if (mapping.writable && !mapping.granted && mapping.size <= kMaxIdleBytes) {
      idle_bytes_ += mapping.size;
      idle_.push_back(std::move(mapping));
    } else {
      released.push_back(std::move(mapping));
    }
    while (idle_.size() > kMaxIdle || idle_bytes_ > kMaxIdleBytes) {
      idle_bytes_ -= idle_.front().size;
      released.push_back(std::move(idle_.front()));
      idle_.pop_front();
    }
  }
  Release(std::move(released));
}

void SessionBuffers::Release(std::vector<Mapping> mappings) {
  if (mappings.empty()) return;
  const absl::StatusOr<std::shared_ptr<SideChannel>> channel = Channel();
  if (!channel.ok()) return;  // they end with the session
  for (const Mapping& mapping : mappings) {
    v1::SideChannelRequest request;
    request.mutable_release_buffer()->set_buffer(mapping.id);
    (*channel)->Tell(request);
  }
}

void SessionBuffers::End() {
  std::deque<Mapping> idle;
  std::deque<std::shared_ptr<Use>> foreign;
  std::shared_ptr<SideChannel> channel;
  absl::MutexLock lock(&mutex_);
  ended_ = true;
  idle.swap(idle_);
  foreign.swap(foreign_);
  channel.swap(channel_);
}

}  // namespace runloop::internal

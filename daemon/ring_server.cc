#include "runloop/daemon/ring_server.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

// How often, counted in turns, it is asked who has rung while the runtime thread has not slept; and
// after how many turns without work a session is left to ring.
constexpr uint32_t kCollectEvery = 8;
constexpr int kIdleServes = 256;
constexpr int kBellsAtOnce = 64;
// How long one turn of all sessions takes, or of one that knocks, and that of one more.
constexpr absl::Duration kLongestServe = absl::Microseconds(200);
// How often a session that knocks is served at once.
constexpr int kMostKnocked = 16;
// What is kept for the next flood when the runtime thread sleeps.
constexpr size_t kKeptTasks = 256;
// How long Finish waits for a bell before it looks again.
constexpr absl::Duration kFinishSlice = absl::Milliseconds(5);

}  // namespace

absl::StatusOr<std::shared_ptr<RingServer>> RingServer::Create(RingServerOptions options) {
  UniqueFd bells(epoll_create1(EPOLL_CLOEXEC));
  if (!bells.valid()) return absl::ErrnoToStatus(errno, "no epoll descriptor");
  return std::shared_ptr<RingServer>(new RingServer(std::move(options), std::move(bells)));
}

RingServer::RingServer(RingServerOptions options, UniqueFd bells)
    : options_(std::move(options)),
      bells_(std::move(bells)),
      long_tools_(options_.terms.max_unfinished),
      tools_(options_.terms.max_unfinished) {}

RingServer::~RingServer() = default;

absl::StatusOr<RingServer::Attached> RingServer::Attach(const std::shared_ptr<Session>& session,
                                                        std::shared_ptr<RingOwner> owner,
                                                        std::shared_ptr<const UniqueFd> channel) {
  const size_t bytes = RingMemory::SizeOf(options_.ring_bytes, options_.ring_bytes);
  absl::StatusOr<internal::BufferCharge> charge =
      options_.terms.core->buffers().Reserve(*session, static_cast<int64_t>(bytes));
  if (!charge.ok()) {
    absl::Status refused(
        charge.status().code(),
        absl::StrCat("rings count as bytes of buffers (--ring_bytes, --session_buffers, "
                     "--user_buffers, --total_buffers), and ",
                     charge.status().message()));
    charge.status().ForEachPayload([&](absl::string_view type, const absl::Cord& payload) {
      refused.SetPayload(type, payload);
    });
    return refused;
  }
  absl::StatusOr<RingMemory> memory = RingMemory::Create(options_.ring_bytes, options_.ring_bytes);
  if (!memory.ok()) return memory.status();
  UniqueFd bell(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!bell.valid()) return absl::ResourceExhaustedError("the process has no descriptors left");
  UniqueFd file = memory->TakeFile();
  std::shared_ptr<SessionRing> ring = SessionRing::Make(*this, options_.terms,
                                                        {.session = session,
                                                         .owner = std::move(owner),
                                                         .memory = *std::move(memory),
                                                         .charge = *std::move(charge),
                                                         .bell = std::move(bell),
                                                         .channel = std::move(channel)});
  return Attached{.ring = ring,
                  .request_bytes = options_.ring_bytes,
                  .response_bytes = options_.ring_bytes,
                  .memory = std::move(file),
                  .bell = ring->bell()};
}

void RingServer::Start(const std::shared_ptr<SessionRing>& ring,
                       std::unique_ptr<SessionProtocol> protocol) {
  // Each time that it is rung is an event: the counter, which the worker shares, is never read.
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.ptr = ring.get();
  {
    internal::MutexLock lock(&mutex_);
    ring->Begin(std::move(protocol), ring);
    rings_[ring.get()] = ring;
    if (ring->closed) return;
    if (epoll_ctl(bells_.get(), EPOLL_CTL_ADD, ring->bell(), &event) != 0) {
      return End(*ring, absl::ErrnoToStatus(errno, "epoll_ctl"));
    }
    Activate(*ring);
  }
  // Before it has read this, it writes nothing.
  ring->RingWorker();
  // A runtime thread that sleeps does not look at it, and has not said so in its memory.
  options_.terms.core->Poke();
}

size_t& RingServer::ArrivingOf(const SessionRing& ring) {
  return arriving_bytes_[ring.session().info().peer.role.empty() ? 0 : 1];
}

void RingServer::CountLong(SessionRing& ring) {
  const size_t now = ring.long_bytes();
  ArrivingOf(ring) += now - std::exchange(ring.counted_long, now);
}

void RingServer::Remove(SessionRing& ring) {
  ring.closed = true;
  ArrivingOf(ring) -= std::exchange(ring.counted_long, 0);
  if (std::exchange(ring.active, false)) std::erase(active_, &ring);
  epoll_ctl(bells_.get(), EPOLL_CTL_DEL, ring.bell(), nullptr);
}

void RingServer::End(SessionRing& ring, absl::Status why) {
  Remove(ring);
  ring.owner().OnRingEnd(std::move(why));
}

std::unique_ptr<SessionProtocol> RingServer::Close(SessionRing& ring) {
  std::shared_ptr<SessionRing> kept;
  {
    internal::MutexLock lock(&mutex_);
    if (!ring.closed) Remove(ring);
    if (const auto found = rings_.find(&ring); found != rings_.end()) {
      kept = std::move(found->second);
      rings_.erase(found);
    }
    if (rings_.empty()) {
      tools_.Trim();
      long_tools_.Trim();
    }
  }
  // Nobody serves it any more.
  return ring.Close();
}

void RingServer::EndRequests(SessionRing& ring) {
  {
    internal::MutexLock lock(&mutex_);
    ring.EndRequests();
    if (ring.closed) return;
    Activate(ring);
    ServeOne(ring, clock().Now());
  }
  options_.terms.core->Poke();
}

void RingServer::BeginDrain(SessionRing& ring, absl::Duration left) {
  {
    internal::MutexLock lock(&mutex_);
    if (ring.closed) return;
    ring.BeginDrain(left);
    Activate(ring);
    ServeOne(ring, clock().Now());  // told even while the runtime thread is stuck
  }
  options_.terms.core->Poke();
}

void RingServer::Knock(SessionRing& ring) {
  // As much as it has, within bounds: the runtime thread may not come for long. In between others
  // may have the lock.
  bool more = true;
  absl::Time now = clock().Now();
  const absl::Time until = now + kLongestServe;
  for (int i = 0; i < kMostKnocked && more && now < until; ++i, now = clock().Now()) {
    internal::MutexLock lock(&mutex_);
    if (ring.closed || !rings_.contains(&ring)) return;
    Activate(ring);
    ServeOne(ring, now);
    more = !ring.closed && ring.HasWork();
    // Where the loop does not run nobody else says that the daemon does not look by itself.
    if (!more && !ring.closed) (void)ring.AnnounceSleep();
  }
  internal::OperationTask::TrimThread(0);
  options_.terms.core->Poke();
}

void RingServer::ChannelClosed(const std::shared_ptr<SessionRing>& ring) {
  internal::MutexLock lock(&mutex_);
  if (ring->closed) return;
  End(*ring, MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_NOT_CONNECTED,
                       "the side channel of the session's ring was closed"));
}

void RingServer::Poke(std::weak_ptr<SessionRing> ring) {
  {
    internal::MutexLock lock(&poked_mutex_);
    poked_.push_back(std::move(ring));
    has_poked_.store(true, std::memory_order_seq_cst);
  }
  options_.terms.core->Poke();
}

void RingServer::TakePoked() {
  if (!has_poked_.load(std::memory_order_seq_cst)) return;
  std::vector<std::weak_ptr<SessionRing>> poked;
  {
    internal::MutexLock lock(&poked_mutex_);
    poked.swap(poked_);
    has_poked_.store(false, std::memory_order_seq_cst);
  }
  for (const std::weak_ptr<SessionRing>& each : poked) {
    const std::shared_ptr<SessionRing> ring = each.lock();
    if (ring != nullptr && !ring->closed && rings_.contains(ring.get())) Activate(*ring);
  }
}

void RingServer::Activate(SessionRing& ring) {
  ring.idle_serves = 0;
  if (!std::exchange(ring.active, true)) active_.push_back(&ring);
}

void RingServer::Collect() {
  internal::MutexLock lock(&mutex_);
  CollectLocked();
}

void RingServer::CollectLocked() {
  epoll_event events[kBellsAtOnce];
  const int count = epoll_wait(bells_.get(), events, kBellsAtOnce, 0);
  for (int i = 0; i < count; ++i) {
    SessionRing& ring = *static_cast<SessionRing*>(events[i].data.ptr);
    if (absl::Status status = ring.NoteBell(); !status.ok()) {
      End(ring, std::move(status));
    } else {
      Activate(ring);
    }
  }
}

void RingServer::Serve(absl::Time now) {
  internal::MutexLock lock(&mutex_);
  TakePoked();
  if (++serves_ % kCollectEvery == 0) CollectLocked();
  const size_t count = active_.size();
  const absl::Time until = now + kLongestServe;
  for (size_t served = 0; served < count && !active_.empty(); ++served) {
    if (next_ >= active_.size()) next_ = 0;
    SessionRing* const ring = active_[next_];
    ServeOne(*ring, now);
    if (next_ < active_.size() && active_[next_] == ring) ++next_;
    if (count == 1) break;
    now = clock().Now();
    if (now >= until) break;  // the others come first next time
  }
}

void RingServer::ServeOne(SessionRing& ring, absl::Time now) {
  if (ring.has_long()) return;
  const bool had_work = ring.HasWork();
  if (absl::Status status = ring.Serve(tools_, now); !status.ok())
    return End(ring, std::move(status));
  CountLong(ring);
  const bool with_role = !ring.session().info().peer.role.empty();
  if (ring.counted_long > 0 && ArrivingOf(ring) > (with_role ? options_.max_role_arriving_bytes
                                                             : options_.max_arriving_bytes)) {
    EndLargest(with_role);
    if (ring.closed) return;
  }
  if (ring.has_long()) {
    long_rings_.push_back(rings_.at(&ring));
    if (long_rings_.size() == 1) PostLong();
    return;
  }
  if (ring.TakeSettled()) ring.owner().OnRingEnd(absl::OkStatus());
  ring.idle_serves = had_work ? 0 : ring.idle_serves + 1;
  if (ring.idle_serves < kIdleServes || !ring.AnnounceSleep()) return;
  ring.active = false;
  std::erase(active_, &ring);
}

void RingServer::EndLargest(bool with_role) {
  SessionRing* largest = nullptr;
  for (const auto& [each, kept] : rings_) {
    if (each->closed || each->session().info().peer.role.empty() == with_role) continue;
    if (largest == nullptr || each->counted_long > largest->counted_long) largest = each;
  }
  if (largest == nullptr) return;
  End(*largest, MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_MESSAGE_TOO_LARGE,
                          "messages on their way to the daemon take too much of its memory, and "
                          "this session's most: send smaller ones, or use buffers"));
}

void RingServer::PostLong() {
  options_.completion->Post([self = shared_from_this()] { self->HandleLong(); });
}

// Nobody else serves it meanwhile, or closes it: that is this thread's, too.
void RingServer::HandleLong() {
  std::shared_ptr<SessionRing> ring;
  bool closed;
  {
    internal::MutexLock lock(&mutex_);
    ring = long_rings_.front();
    closed = ring->closed;
  }
  absl::Status status;
  if (!closed) status = ring->HandleLong(long_tools_);
  long_tools_.TrimTo(kKeptTasks);
  {
    internal::MutexLock lock(&mutex_);
    long_rings_.pop_front();
    if (!long_rings_.empty()) PostLong();
    ring->EndLong();
    if (ring->closed) return;
    CountLong(*ring);
    if (!status.ok()) return End(*ring, std::move(status));
    Activate(*ring);
  }
  options_.terms.core->Poke();
}

bool RingServer::HasWork() {
  if (has_poked_.load(std::memory_order_relaxed)) return true;
  internal::MutexLock lock(&mutex_);
  return std::any_of(active_.begin(), active_.end(),
                     [](const SessionRing* ring) { return ring->HasWork(); });
}

bool RingServer::AnnounceSleep() {
  internal::MutexLock lock(&mutex_);
  TakePoked();
  for (size_t i = active_.size(); i-- > 0;) {
    SessionRing& ring = *active_[i];
    if (!ring.AnnounceSleep()) return false;
    ring.active = false;
    active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  if (has_poked_.load(std::memory_order_seq_cst)) return false;
  tools_.TrimTo(kKeptTasks);
  internal::OperationTask::TrimThread(kKeptTasks);
  return true;
}

void RingServer::Finish(absl::Time deadline) {
  while (true) {
    Collect();
    Serve(clock().Now());
    {
      internal::MutexLock lock(&mutex_);
      if (rings_.empty()) return;
    }
    if (Clock::Monotonic()->Now() >= deadline) return;
    pollfd bell{.fd = bells_.get(), .events = POLLIN, .revents = 0};
    (void)poll(&bell, 1, static_cast<int>(absl::ToInt64Milliseconds(kFinishSlice)));
  }
}

}  // namespace runloop::daemon

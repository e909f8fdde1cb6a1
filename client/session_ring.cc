#include "runloop/client/session_ring.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "runloop/client/side_channel.h"
#include "runloop/runtime/clock.h"

namespace runloop::internal {
namespace {

// How long the daemon may leave requests in the ring before it is knocked at: its runtime thread is
// busy with something that is no task.
constexpr absl::Duration kKnockAfter = absl::Milliseconds(5);
constexpr absl::Duration kLongestKnock = absl::Milliseconds(100);
// How long a nap is, and after how many messages.
constexpr absl::Duration kNap = absl::Microseconds(100);
constexpr int kMany = 3;

absl::Time Now() { return Clock::Monotonic()->Now(); }

}  // namespace

absl::StatusOr<std::unique_ptr<SessionRing>> SessionRing::Attach(const Address& address,
                                                                 const v1::Welcome& welcome,
                                                                 absl::Duration timeout,
                                                                 absl::Time until, Mutex& writes) {
  absl::StatusOr<std::unique_ptr<SideChannel>> channel = SideChannel::Attach(
      address, welcome.session_id(), welcome.side_channel_token(), timeout, until);
  if (!channel.ok()) return channel.status();
  v1::SideChannelRequest request;
  request.mutable_attach_ring();
  absl::StatusOr<SideChannel::Answer> answer = (*channel)->Ask(request);
  if (!answer.ok()) return answer.status();
  if (answer->fds.size() != 2 || !answer->response.has_ring()) {
    return absl::InternalError("the daemon gave no ring");
  }
  const v1::RingInfo& info = answer->response.ring();
  absl::StatusOr<RingMemory> memory =
      RingMemory::Map(std::move(answer->fds[0]), info.request_bytes(), info.response_bytes());
  if (!memory.ok()) return memory.status();
  std::unique_ptr<SessionRing> ring(new SessionRing(*std::move(memory), (*channel)->TakeSocket(),
                                                    std::move(answer->fds[1]), writes));
  if (absl::Status nudge = ring->nudge_.status(); !nudge.ok()) return nudge;
  // Until this the daemon goes on with the stream.
  if (!ring->Knock()) return absl::UnavailableError("the daemon has closed the side channel");
  if (!ring->AwaitByte(std::min(Now() + timeout, until))) {
    return absl::AbortedError("the daemon gave the session a ring and does not serve it");
  }
  return ring;
}

SessionRing::Event SessionRing::Next(absl::Time deadline, bool hurried, std::string_view& message) {
  while (true) {
    if (shut_down_.load()) return Event::kClosed;
    const bool closed = closed_.load();
    const absl::StatusOr<std::optional<std::string_view>> next = end_.reader().Next();
    if (end_.TakeReadBell()) RingDaemon();
    if (!next.ok()) {
      error_ = next.status();
      Shutdown();
      return Event::kClosed;
    }
    if (next->has_value()) {
      ++since_nap_;
      message = **next;
      return Event::kMessage;
    }
    // Looked at before the last message was read, so there are no more.
    if (closed) return Event::kClosed;
    if (HasRoom()) return Event::kRoom;
    if (hurried) {
      if (spin_.Until([this] { return end_.reader().has_bytes(); })) continue;
    } else if (std::exchange(since_nap_, 0) >= kMany) {
      Nap();
      continue;
    }
    if (Now() >= deadline) return Event::kTimeout;
    if (!AnnounceSleep()) continue;
    if (Sleep(deadline)) closed_.store(true);
  }
}

void SessionRing::Nap() {
  naps_.store(true);
  pollfd nudge{.fd = nudge_.fd(), .events = POLLIN, .revents = 0};
  const timespec timeout = absl::ToTimespec(kNap);
  if (ppoll(&nudge, 1, &timeout, nullptr) > 0) nudge_.Clear();
  naps_.store(false);
}

void SessionRing::Hurry() {
  if (naps_.load() && naps_.exchange(false)) nudge_.Signal();
}

bool SessionRing::Sleep(absl::Time deadline) {
  absl::Duration knock = kKnockAfter;
  uint64_t read = 0;  // when it was last knocked
  while (true) {
    sleeps_long_.store(true);
    const bool unread = HasUnread();
    if (unread) sleeps_long_.store(false);
    const absl::Duration left = deadline - Now();
    if (left <= absl::ZeroDuration()) return false;
    pollfd fds[] = {{.fd = socket_.get(), .events = POLLIN | POLLRDHUP, .revents = 0},
                    {.fd = nudge_.fd(), .events = POLLIN, .revents = 0}};
    const absl::Duration most = unread ? std::min(left, knock) : left;
    timespec timeout = absl::ToTimespec(most);
    const int ready = ppoll(fds, 2, most == absl::InfiniteDuration() ? nullptr : &timeout, nullptr);
    sleeps_long_.store(false);
    if (ready < 0) continue;
    if (ready == 0) {
      if (!unread) return false;
      if (HasUnread()) (void)Knock();
      // Who reads when it is knocked has more to read.
      const uint64_t before = std::exchange(read, ReadByDaemon());
      knock = read != before ? kKnockAfter : std::min(2 * knock, kLongestKnock);
      continue;
    }
    if (fds[1].revents != 0) nudge_.Clear();
    if (fds[0].revents == 0) continue;
    // Bytes only say that there is something; a few have gathered at most.
    char bytes[64];
    const ssize_t got = recv(socket_.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
    if (got > 0) return false;
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) return true;
  }
}

bool SessionRing::Knock() {
  static constexpr char kByte = 0;
  return send(socket_.get(), &kByte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1;
}

bool SessionRing::AwaitByte(absl::Time deadline) {
  while (true) {
    const absl::Duration left = deadline - Now();
    if (left <= absl::ZeroDuration()) return false;
    pollfd socket{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    (void)poll(&socket, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    char byte;
    const ssize_t got = recv(socket_.get(), &byte, 1, MSG_DONTWAIT);
    if (got > 0) return true;
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) return false;
  }
}

bool SessionRing::AnnounceSleep() {
  MutexLock lock(&writes_);
  return end_.AnnounceSleep();
}

bool SessionRing::HasRoom() {
  // If that is not seen yet, AnnounceSleep sees it.
  if (!has_rest_.load(std::memory_order_relaxed)) return false;
  MutexLock lock(&writes_);
  return end_.writer().left() > 0 && !write_failed_ && end_.writer().has_room();
}

uint64_t SessionRing::ReadByDaemon() {
  MutexLock lock(&writes_);
  return end_.writer().read_position();
}

bool SessionRing::HasUnread() {
  MutexLock lock(&writes_);
  return end_.writer().has_unread();
}

bool SessionRing::Write(RequestWriter& message) {
  writes_.AssertHeld();
  message.AppendPieces(pieces_);
  write_failed_ = !end_.writer().Write(pieces_).ok();
  pieces_.clear();
  return FlushLocked();
}

bool SessionRing::Flush() {
  MutexLock lock(&writes_);
  return FlushLocked();
}

bool SessionRing::FlushLocked() {
  bool done = false;
  while (!write_failed_) {
    done = end_.writer().left() == 0;
    if (done) break;
    if (!end_.writer().has_room()) {
      end_.WantRoom();
      if (!end_.writer().has_room()) break;
    }
    write_failed_ = !end_.writer().Flush().ok();
  }
  if (write_failed_) Shutdown();
  has_rest_.store(!done, std::memory_order_relaxed);
  RingIfWanted();
  return done;
}

void SessionRing::RingIfWanted() {
  if (end_.TakeWriteBell()) RingDaemon();
  // Who sleeps until the daemon writes should look whether it reads.
  if (sleeps_long_.load() && sleeps_long_.exchange(false)) nudge_.Signal();
}

void SessionRing::RingDaemon() {
  // An eventfd that nobody reads, and that has room for longer than anybody lives.
  static constexpr uint64_t kOne = 1;
  (void)!write(bell_.get(), &kOne, sizeof(kOne));
}

bool SessionRing::PeerHasGone() {
  if (closed_.load(std::memory_order_relaxed)) return true;
  // One that is at work takes what comes; if it goes just now, nobody can say what it took.
  if (!end_.other_sleeps()) return false;
  pollfd socket{.fd = socket_.get(), .events = POLLRDHUP, .revents = 0};
  return poll(&socket, 1, 0) > 0;
}

void SessionRing::Shutdown() {
  shut_down_.store(true);
  (void)shutdown(socket_.get(), SHUT_RDWR);
}

}  // namespace runloop::internal

#include "runloop/daemon/listener.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/clock.h"

namespace runloop::daemon {
namespace {

constexpr int kAcceptsATurn = 64;
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);
// Descriptors for gRPC are numbered from here on, up to the process's limit or this bound.
constexpr int kLowestNumber = 64;
constexpr int kHighestNumber = 65'536;

// Descriptors that workers with a role leave to the main sockets, unless there are very few.
constexpr int kReserved = 64;

int HighestNumber() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > kHighestNumber) {
    return kHighestNumber;
  }
  return static_cast<int>(limit.rlim_cur);
}

// True if all numbers but the last are taken: the kernel gives the lowest.
bool IsReserved(int fd) {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return false;
  const rlim_t reserved = std::min<rlim_t>(kReserved, limit.rlim_cur / 4);
  return static_cast<rlim_t>(fd) >= limit.rlim_cur - reserved;
}

absl::Time Now() { return Clock::Monotonic()->Now(); }

bool HungUp(int fd) {
  pollfd poll_fd = {.fd = fd, .events = POLLRDHUP, .revents = 0};
  return poll(&poll_fd, 1, 0) > 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Create(ListenerOptions options) {
  std::unique_ptr<Listener> listener(new Listener(std::move(options)));
  if (absl::Status started = listener->Start(); !started.ok()) return started;
  return listener;
}

Listener::Listener(ListenerOptions options)
    : serve_(std::move(options.serve)),
      ended_(std::move(options.ended)),
      connections_(*options.connections),
      first_byte_timeout_(options.first_byte_timeout),
      max_pending_(options.max_pending),
      max_connections_(options.max_connections),
      max_role_connections_(options.max_role_connections),
      sockets_(std::move(options.sockets)),
      timer_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)),
      log_(options.log),
      side_channels_(loop_,
                     {.add_role_socket =
                          [this](UniqueFd socket, const std::string& role) {
                            const int fd = socket.get();
                            return AddSource({.fd = fd, .owned = std::move(socket), .role = role});
                          },
                      .remove_role_socket = [this](int fd) { RemoveSource(fd); },
                      .buffers = options.buffers,
                      .sessions = options.sessions,
                      .rings = options.rings},
                     options.first_byte_timeout, options.log, [this] { SetTimer(); }) {
  for (const ListeningSocket& socket : sockets_) addresses_.push_back(socket.name());
}

absl::Status Listener::Start() {
  if (!timer_.valid()) return absl::ErrnoToStatus(errno, "no timer");
  absl::Status status = loop_.Attach([](const DrainBudget&) { return false; });
  if (!status.ok()) return status;
  status = loop_.AddFd(timer_.get(), EPOLLIN, [this](uint32_t) { OnTimer(); });
  if (!status.ok()) return status;
  for (const ListeningSocket& socket : sockets_) {
    status = AddSource({.fd = socket.fd()});
    if (!status.ok()) return status;
  }
  thread_ = std::thread([this] { (void)loop_.Run(); });
  return absl::OkStatus();
}

Listener::~Listener() {
  if (thread_.joinable()) {
    loop_.Quit();
    thread_.join();
  }
  for (const auto& [fd, watched] : watched_) {
    connections_.Remove(watched.grpc_fd, watched.connection);
  }
}

absl::Status Listener::AddSource(Source source) {
  const int fd = source.fd;
  if (accepting_) {
    absl::Status added = loop_.AddFd(fd, EPOLLIN, [this, fd](uint32_t) { Accept(fd); });
    if (!added.ok()) return added;
  }
  sources_[fd] = std::move(source);
  return absl::OkStatus();
}

void Listener::RemoveSource(int fd) {
  if (accepting_) (void)loop_.RemoveFd(fd);
  sources_.erase(fd);
}

void Listener::Accept(int fd) {
  const auto found = sources_.find(fd);
  if (found == sources_.end()) return;
  const std::string role = found->second.role;
  // Others get their turn after some; what is left makes the socket readable again.
  for (int i = 0; i < kAcceptsATurn; ++i) {
    if (!role.empty()) fcntl(fd, F_SETFL, O_NONBLOCK);  // its maker can clear it
    UniqueFd socket(accept4(fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket.valid()) {
      Admit(std::move(socket), role);
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno == EAGAIN) return;
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      log_.Warn(absl::StrCat("cannot accept connections: ", strerror(errno),
                             "; trying again every 100 ms"));
      PauseAccepting();
    } else {
      // Such as a role socket that its maker has shut down. It stays here, idle, until it is taken
      // away.
      log_.Warn(absl::StrCat("accepts no more on descriptor ", fd, ": ", strerror(errno)));
      found->second.broken = true;
      (void)loop_.RemoveFd(fd);
    }
    return;
  }
}

void Listener::PauseAccepting() {
  if (!accepting_) return;
  accepting_ = false;
  for (const auto& [fd, source] : sources_) (void)loop_.RemoveFd(fd);
  resume_at_ = Now() + kAcceptPause;
  SetTimer();
}

void Listener::ResumeAccepting() {
  accepting_ = true;
  resume_at_ = absl::InfiniteFuture();
  for (const auto& [number, source] : sources_) {
    if (source.broken) continue;
    const int fd = number;
    if (!loop_.AddFd(fd, EPOLLIN, [this, fd](uint32_t) { Accept(fd); }).ok()) {
      PauseAccepting();
      return;
    }
  }
}

void Listener::Admit(UniqueFd socket, const std::string& role) {
  absl::StatusOr<PeerIdentity> peer = GetPeerIdentity(socket.get());
  if (!peer.ok() || peer->uid != geteuid()) {
    connections_.refused_peers.fetch_add(1, std::memory_order_relaxed);
    log_.Warn(peer.ok() ? absl::StrCat("refused process ", peer->pid, " of user ", peer->uid,
                                       ": only user ", geteuid(), " is let in")
                        : absl::StrCat("refused a connection: ", peer.status().message()));
    return;
  }
  peer->role = role;
  const int fd = socket.get();
  const bool reserved = !role.empty() && IsReserved(fd);
  ConnectionSlot slot = reserved ? nullptr : TakeSlot(*peer);
  if (slot == nullptr) {
    connections_.refused_peers.fetch_add(1, std::memory_order_relaxed);
    log_.Warn(absl::StrCat("refused a connection of process ", peer->pid,
                           role.empty() ? "" : absl::StrCat(" with the role '", role, "'"),
                           reserved       ? ": few descriptors are left"
                           : role.empty() ? ": it has as many as it may"
                                          : ": the role has as many as it may"));
    return;
  }
  absl::StatusOr<std::unique_ptr<PeerProcess>> process = PeerProcess::Watch(
      loop_, fd, peer->pid, [this, fd, pid = peer->pid] { OnProcessEnd(fd, pid); });
  if (!process.ok()) {
    OnProcessEnd(fd, peer->pid);
    return;
  }
  if (absl::Status added = loop_.AddFd(fd, EPOLLIN, [this, fd](uint32_t) { Look(fd); });
      !added.ok()) {
    log_.Warn(absl::StrCat("closed a connection: ", added.message()));
    return;
  }
  pending_.push_back({.accepted = {.socket = std::move(socket),
                                   .peer = *std::move(peer),
                                   .slot = std::move(slot),
                                   .process = *std::move(process)},
                      .deadline = Now() + first_byte_timeout_});
  pending_by_fd_[fd] = std::prev(pending_.end());
  if (pending_.size() == 1) SetTimer();
  Look(fd);  // often the first byte is there already
  if (pending_.size() > max_pending_) {
    const auto by_role = std::find_if(pending_.begin(), pending_.end(), [](const Pending& pending) {
      return !pending.accepted.peer.role.empty();
    });
    Reject(by_role != pending_.end() ? by_role : pending_.begin(),
           "too many others have sent nothing yet");
  }
}

void Listener::Look(int fd) {
  const auto found = pending_by_fd_.find(fd);
  if (found == pending_by_fd_.end()) return;
  const PendingList::iterator pending = found->second;
  char first = 0;
  const ssize_t got = recv(fd, &first, 1, MSG_PEEK | MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    TakePending(pending);  // it has gone, as a probe does
    return;
  }
  if (first != 'P' && first != 'R') {
    Reject(pending, "it speaks neither gRPC nor the side channel's protocol");
    return;
  }
  AcceptedSocket accepted = TakePending(pending);
  if (first == 'P') {
    HandToGrpc(std::move(accepted));
  } else {
    side_channels_.Add(std::move(accepted));
  }
}

ConnectionSlot Listener::TakeSlot(const PeerIdentity& peer) {
  const Holder holder(peer.role.empty() ? peer.pid : 0, peer.role);
  const size_t most = peer.role.empty() ? max_connections_ : max_role_connections_;
  const auto found = slots_.find(holder);
  if (found == slots_.end()) {
    ConnectionSlot first(static_cast<const void*>(this),
                         [this, holder](const void*) { slots_.erase(holder); });
    slots_[holder] = first;
    return first;
  }
  if (static_cast<size_t>(found->second.use_count()) >= most) return nullptr;
  return found->second.lock();
}

void Listener::Reject(PendingList::iterator pending, absl::string_view why) {
  connections_.rejected_connections.fetch_add(1, std::memory_order_relaxed);
  log_.Warn(absl::StrCat("closed a connection of process ", pending->accepted.peer.pid, ": ", why));
  TakePending(pending);
}

AcceptedSocket Listener::TakePending(PendingList::iterator pending) {
  AcceptedSocket accepted = std::move(pending->accepted);
  (void)loop_.RemoveFd(accepted.socket.get());
  pending_by_fd_.erase(accepted.socket.get());
  pending_.erase(pending);
  return accepted;
}

void Listener::HandToGrpc(AcceptedSocket accepted) {
  const int fd = accepted.socket.get();
  const int32_t pid = accepted.peer.pid;
  absl::StatusOr<int> grpc_fd = DuplicateHigh(fd);
  if (!grpc_fd.ok()) {
    log_.Warn(
        absl::StrCat("closed a connection of process ", pid, ": ", grpc_fd.status().message()));
    return;
  }
  UniqueFd for_grpc(*grpc_fd);
  if (absl::Status added = loop_.AddFd(fd, EPOLLRDHUP, [this, fd](uint32_t) { OnHangUp(fd); });
      !added.ok()) {
    log_.Warn(absl::StrCat("closed a connection of process ", pid, ": ", added.message()));
    return;
  }
  std::shared_ptr<Connection> connection = connections_.Add(
      *grpc_fd, accepted.peer, accepted.process != nullptr ? accepted.process->pidfd() : nullptr);
  watched_[fd] = {.accepted = std::move(accepted), .grpc_fd = *grpc_fd, .connection = connection};
  serve_(for_grpc.Release(), connection->peer().role);
}

// The numbers rise and wrap around, so that one comes back only after all others were used: gRPC
// knows a connection by its number, and the end of one may be seen here after gRPC has closed it.
absl::StatusOr<int> Listener::DuplicateHigh(int fd) {
  const int highest = HighestNumber();
  if (next_number_ < kLowestNumber || next_number_ >= highest) next_number_ = kLowestNumber;
  int number = fcntl(fd, F_DUPFD_CLOEXEC, std::min(next_number_, highest - 1));
  if (number < 0 || number >= kHighestNumber) {
    // From here to the limit all are taken.
    if (number >= 0) close(number);
    number = fcntl(fd, F_DUPFD_CLOEXEC, std::min(kLowestNumber, highest - 1));
  }
  if (number < 0) return absl::ErrnoToStatus(errno, "no descriptor left");
  next_number_ = number + 1;
  return number;
}

void Listener::OnHangUp(int fd) {
  // The event may be an older one's of the same number.
  if (!HungUp(fd)) return;
  const auto found = watched_.find(fd);
  if (found == watched_.end()) return;
  const Watched ended = std::move(found->second);
  watched_.erase(found);
  (void)loop_.RemoveFd(fd);
  connections_.Remove(ended.grpc_fd, ended.connection);
  if (ended_) ended_(ended.connection->peer().role);
}

void Listener::OnProcessEnd(int fd, int32_t pid) {
  if (HungUp(fd)) return;  // as it is where nobody else held the socket
  log_.Warn(absl::StrCat("closed a connection of process ", pid,
                         ", which has ended: another process holds its socket, and has to open a "
                         "connection of its own"));
  shutdown(fd, SHUT_RDWR);
}

void Listener::OnTimer() {
  uint64_t expirations;
  (void)!read(timer_.get(), &expirations, sizeof(expirations));
  const absl::Time now = Now();
  if (resume_at_ <= now) ResumeAccepting();
  while (!pending_.empty() && pending_.front().deadline <= now) {
    Reject(pending_.begin(),
           absl::StrCat("it sent nothing for ", absl::FormatDuration(first_byte_timeout_)));
  }
  side_channels_.CloseLate(now);
  SetTimer();
}

void Listener::SetTimer() {
  absl::Time next = std::min(resume_at_, side_channels_.next_deadline());
  if (!pending_.empty()) next = std::min(next, pending_.front().deadline);
  itimerspec spec{};
  if (next != absl::InfiniteFuture()) {
    spec.it_value = absl::ToTimespec(std::max(next - Now(), absl::Milliseconds(1)));
  }
  timerfd_settime(timer_.get(), 0, &spec, nullptr);
}

}  // namespace runloop::daemon

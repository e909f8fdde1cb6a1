#include "runloop/daemon/side_channel_server.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/ipc/side_channel_frame.h"
#include "runloop/runtime/clock.h"

namespace runloop::daemon {
namespace {

constexpr size_t kLengthBytes = 4;
// A session may have two: one for its ring, and one for buffers.
constexpr size_t kMaxChannels = 2048;
constexpr size_t kMaxRoleChannels = 256;  // of one role, beside those

size_t DecodeLength(std::string_view bytes) {
  size_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<size_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  return length;
}

}  // namespace

SideChannelServer::SideChannelServer(EpollLoop& loop, SideChannelServices services,
                                     absl::Duration timeout, LogSink log,
                                     std::function<void()> deadline_changed)
    : loop_(loop),
      services_(std::move(services)),
      timeout_(timeout),
      deadline_changed_(std::move(deadline_changed)),
      log_(std::move(log)) {}

SideChannelServer::~SideChannelServer() {
  while (!channels_.empty()) Close(channels_.begin()->first);
}

void SideChannelServer::Add(AcceptedSocket accepted) {
  const int fd = accepted.socket.get();
  const bool by_role = !accepted.peer.role.empty();
  size_t& open = by_role_[accepted.peer.role];
  if (open >= (by_role ? kMaxRoleChannels : kMaxChannels)) {
    log_.Warn(absl::StrCat("refused a side channel of process ", accepted.peer.pid, ": ", open,
                           by_role ? absl::StrCat(" with the role '", accepted.peer.role, "'") : "",
                           " are open"));
    return;
  }
  if (absl::Status added = loop_.AddFd(fd, EPOLLIN, [this, fd](uint32_t) { OnReadable(fd); });
      !added.ok()) {
    log_.Warn(absl::StrCat("closed a side channel: ", added.message()));
    return;
  }
  auto channel = std::make_unique<Channel>(std::move(accepted), services_);
  ++open;
  SetDeadline(*channel);
  channels_[fd] = std::move(channel);
}

void SideChannelServer::SetDeadline(Channel& channel) {
  channel.deadline = Clock::Monotonic()->Now() + timeout_;
  if (channel.deadline >= next_deadline_) return;
  next_deadline_ = channel.deadline;
  deadline_changed_();
}

void SideChannelServer::CloseLate(absl::Time now) {
  if (now < next_deadline_) return;
  next_deadline_ = absl::InfiniteFuture();
  std::vector<int> late;
  for (const auto& [fd, channel] : channels_) {
    if (channel->deadline <= now) {
      late.push_back(fd);
    } else {
      next_deadline_ = std::min(next_deadline_, channel->deadline);
    }
  }
  for (const int fd : late) {
    const Channel& channel = *channels_[fd];
    log_.Warn(absl::StrCat("closed the side channel of process ", channel.peer.pid, ": ",
                           !channel.greeted        ? "it sent no greeting in time"
                           : channel.frame.empty() ? "it attached to no session in time"
                                                   : "it did not finish a frame in time"));
    Close(fd);
  }
}

void SideChannelServer::OnReadable(int fd) {
  const auto found = channels_.find(fd);
  if (found == channels_.end()) return;
  Channel& channel = *found->second;
  const absl::Status status = Read(channel);
  if (status.ok()) {
    if (!channel.frame.empty() && channel.deadline == absl::InfiniteFuture()) SetDeadline(channel);
    return;
  }
  if (!absl::IsCancelled(status)) {
    log_.Warn(absl::StrCat("closed the side channel of process ", channel.peer.pid, ": ",
                           status.message()));
  }
  Close(fd);
}

absl::StatusOr<size_t> SideChannelServer::Missing(const Channel& channel) {
  if (!channel.greeted) return kSideChannelMagic.size() - channel.frame.size();
  if (channel.frame.size() < kLengthBytes) return kLengthBytes - channel.frame.size();
  const size_t length = DecodeLength(channel.frame);
  if (length > kMaxSideChannelMessage) {
    return absl::InvalidArgumentError(absl::StrCat("it announced a frame of ", length,
                                                   " bytes; at most ", kMaxSideChannelMessage));
  }
  return kLengthBytes + length - channel.frame.size();
}

// Never reads past the end of a frame, so that descriptors, which ride with the first byte of
// theirs, cannot be taken for another's.
absl::Status SideChannelServer::Read(Channel& channel) {
  if (channel.requests.has_ring()) return ReadKnocks(channel);
  // A peer that sends without end must not keep the others waiting: the loop comes back.
  for (int reads = 0; reads < 64; ++reads) {
    if (services_.buffers->Unclosed(channel.peer) >= internal::BufferRegistry::kMaxUnclosed) {
      return absl::ResourceExhaustedError(
          "many descriptors that it sent unasked are not closed yet");
    }
    absl::StatusOr<size_t> missing = Missing(channel);
    if (!missing.ok()) return missing.status();
    char buffer[4096];
    const absl::StatusOr<SocketIo> io =
        ReceiveWithFds(channel.shared->get(),
                       absl::MakeSpan(buffer, std::min(*missing, sizeof(buffer))), channel.fds);
    if (!io.ok()) {
      if (absl::IsInvalidArgument(io.status())) services_.buffers->CountRefused(1);
      return io.status();
    }
    if (io->would_block) return absl::OkStatus();
    if (io->end) return absl::CancelledError("the peer closed it");
    if (channel.fds.size() > kMaxFdsPerMessage) {
      return absl::InvalidArgumentError("too many descriptors in one frame");
    }
    channel.frame.append(buffer, io->bytes);
    missing = Missing(channel);
    if (!missing.ok()) return missing.status();
    if (*missing > 0) continue;
    if (!channel.greeted) {
      if (channel.frame != kSideChannelMagic) {
        return absl::InvalidArgumentError("it did not begin with RUNLOOP1");
      }
      channel.greeted = true;
      if (channel.peer.role.empty()) channel.deadline = absl::InfiniteFuture();
      channel.frame.clear();
      services_.buffers->Refuse(channel.peer, std::exchange(channel.fds, {}));
      continue;
    }
    const std::string message = channel.frame.substr(kLengthBytes);
    channel.frame.clear();
    const SideChannelRequests::Answer answer =
        channel.requests.Handle(message, std::exchange(channel.fds, {}));
    if (channel.requests.attached() || channel.peer.role.empty()) {
      channel.deadline = absl::InfiniteFuture();
    }
    const absl::StatusOr<std::string> encoded = EncodeSideChannelFrame(answer.response);
    if (!encoded.ok()) return encoded.status();
    const absl::StatusOr<SocketIo> sent = SendWithFds(channel.shared->get(), *encoded, answer.fds);
    if (!sent.ok()) return sent.status();
    if (sent->bytes < encoded->size()) {
      return absl::ResourceExhaustedError("it does not read its responses");
    }
    if (answer.ends) {
      const std::string& why = answer.response.status().message();
      return absl::PermissionDeniedError(
          channel.peer.role.empty()
              ? why
              : absl::StrCat(why, " (it has the role '", channel.peer.role, "')"));
    }
    if (channel.requests.has_ring()) return ReadKnocks(channel);
  }
  return absl::OkStatus();
}

absl::Status SideChannelServer::ReadKnocks(Channel& channel) {
  char buffer[4096];
  const absl::StatusOr<SocketIo> io =
      ReceiveWithFds(channel.shared->get(), absl::MakeSpan(buffer), channel.fds);
  if (!channel.fds.empty()) {
    services_.buffers->Refuse(channel.peer, std::exchange(channel.fds, {}));
    return absl::InvalidArgumentError("descriptors came by the side channel of a ring");
  }
  // A worker that dies with bytes unread resets it.
  if (!io.ok() || io->end) return absl::CancelledError("the peer closed it");
  if (!io->would_block) channel.requests.Knock();
  return absl::OkStatus();
}

void SideChannelServer::Close(int fd) {
  const auto found = channels_.find(fd);
  const std::unique_ptr<Channel> channel = std::move(found->second);
  channels_.erase(found);
  if (const auto counted = by_role_.find(channel->peer.role); --counted->second == 0) {
    by_role_.erase(counted);
  }
  (void)loop_.RemoveFd(fd);
  (void)shutdown(fd, SHUT_RDWR);  // a ring may keep it open
  services_.buffers->Refuse(channel->peer, std::move(channel->fds));
}

}  // namespace runloop::daemon

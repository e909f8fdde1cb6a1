#include "runloop/client/side_channel.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "runloop/client/daemon_channel.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

// Answers that nobody waits for are read by then, so that the daemon can always write.
constexpr size_t kMaxTold = 64;

absl::Time Now() { return Clock::Monotonic()->Now(); }

}  // namespace

absl::StatusOr<std::unique_ptr<SideChannel>> SideChannel::Attach(const Address& address,
                                                                 const std::string& session_id,
                                                                 const std::string& token,
                                                                 absl::Duration timeout,
                                                                 absl::Time until) {
  absl::StatusOr<UniqueFd> socket = ConnectToDaemon(address);
  if (!socket.ok()) return socket.status();
  // So little goes into a new socket at once or not at all.
  const absl::StatusOr<SocketIo> io = SendWithFds(socket->get(), kSideChannelMagic, {});
  if (!io.ok() || io->bytes != kSideChannelMagic.size()) {
    return NotConnected("the daemon closed the side channel");
  }
  std::unique_ptr<SideChannel> channel(new SideChannel(*std::move(socket), timeout, until));
  v1::SideChannelRequest request;
  request.mutable_attach_session()->set_session_id(session_id);
  request.mutable_attach_session()->set_token(token);
  const absl::StatusOr<Answer> attached = channel->Ask(request);
  if (!attached.ok()) return attached.status();
  return channel;
}

absl::Time SideChannel::Deadline() const { return std::min(Now() + timeout_, until_); }

absl::Status SideChannel::Break(const std::string& why) {
  socket_.Reset();
  return NotConnected(absl::StrCat("the side channel to the daemon broke: ", why));
}

absl::Status SideChannel::AwaitReady(short events, absl::Time deadline) {
  while (true) {
    pollfd poll_fd = {.fd = socket_.get(), .events = events, .revents = 0};
    const absl::Duration left = deadline - Now();
    if (left <= absl::ZeroDuration()) return Break("the daemon does not answer");
    const int ready = poll(&poll_fd, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return Break("poll");
  }
}

absl::Status SideChannel::Send(const v1::SideChannelRequest& request, int fd) {
  if (!socket_.valid()) return NotConnected("the side channel to the daemon is closed");
  const absl::StatusOr<std::string> frame = EncodeSideChannelFrame(request);
  if (!frame.ok()) return frame.status();
  const absl::Time deadline = Deadline();
  std::string_view left = *frame;
  std::vector<int> fds;
  if (fd >= 0) fds.push_back(fd);
  while (!left.empty()) {
    const absl::StatusOr<SocketIo> io = SendWithFds(socket_.get(), left, fds);
    if (!io.ok()) return Break(std::string(io.status().message()));
    if (io->would_block) {
      if (absl::Status ready = AwaitReady(POLLOUT, deadline); !ready.ok()) return ready;
      continue;
    }
    left.remove_prefix(io->bytes);
    fds.clear();
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::SideChannelResponse> SideChannel::Receive(bool wait) {
  const absl::Time deadline = Deadline();
  while (true) {
    const absl::StatusOr<std::optional<std::string>> message = decoder_.Next();
    if (!message.ok()) return Break(std::string(message.status().message()));
    if (message->has_value()) {
      v1::SideChannelResponse response;
      if (!response.ParseFromString(**message)) return Break("it is no runloop daemon");
      return response;
    }
    char buffer[4096];
    const absl::StatusOr<SocketIo> io = ReceiveWithFds(socket_.get(), absl::MakeSpan(buffer), fds_);
    if (!io.ok()) return Break(std::string(io.status().message()));
    if (io->end) return Break("the daemon closed it");
    if (io->would_block) {
      if (!wait) return absl::CancelledError();
      if (absl::Status ready = AwaitReady(POLLIN, deadline); !ready.ok()) return ready;
      continue;
    }
    decoder_.Append(std::string_view(buffer, io->bytes));
  }
}

absl::StatusOr<SideChannel::Answer> SideChannel::Ask(const v1::SideChannelRequest& request,
                                                     int fd) {
  absl::MutexLock lock(&mutex_);
  if (absl::Status sent = Send(request, fd); !sent.ok()) return sent;
  // Those to what was told come first, and bring nothing.
  for (; told_ > 0; --told_) {
    const absl::StatusOr<v1::SideChannelResponse> told = Receive(true);
    if (!told.ok()) return told.status();
  }
  absl::StatusOr<v1::SideChannelResponse> response = Receive(true);
  // Of all those on their way only this one can have brought descriptors.
  std::vector<UniqueFd> fds = std::exchange(fds_, {});
  if (!response.ok()) return response.status();
  if (absl::Status status = FromProto(response->status()); !status.ok()) return status;
  return Answer{.response = *std::move(response), .fds = std::move(fds)};
}

UniqueFd SideChannel::TakeSocket() {
  absl::MutexLock lock(&mutex_);
  return std::move(socket_);
}

void SideChannel::Tell(const v1::SideChannelRequest& request) {
  absl::MutexLock lock(&mutex_);
  if (!Send(request, -1).ok()) return;
  ++told_;
  while (told_ > 0) {
    const absl::StatusOr<v1::SideChannelResponse> told = Receive(told_ >= kMaxTold);
    if (!told.ok()) return;
    --told_;
  }
}

}  // namespace runloop::internal

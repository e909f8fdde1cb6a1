#ifndef RUNLOOP_CLIENT_SIDE_CHANNEL_H_
#define RUNLOOP_CLIENT_SIDE_CHANNEL_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/ipc/address.h"
#include "runloop/ipc/side_channel_frame.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/v1/side_channel.pb.h"

namespace runloop::internal {

// A worker's end of the side channel of one session (side_channel.proto). Any thread; one request
// at a time. Destruction closes it.
//
// Trust: a daemon that breaks the protocol, or does not answer in time, loses the channel: every
// later call is UNAVAILABLE (NOT_CONNECTED).
class SideChannel {
 public:
  // Connects, and attaches to the session. The daemon may take `timeout` to take each request, and
  // to answer it, but for all of them no longer than `until`, of Clock::Monotonic().
  static absl::StatusOr<std::unique_ptr<SideChannel>> Attach(
      const Address& address, const std::string& session_id, const std::string& token,
      absl::Duration timeout, absl::Time until = absl::InfiniteFuture());
  SideChannel(const SideChannel&) = delete;
  SideChannel& operator=(const SideChannel&) = delete;

  struct Answer {
    v1::SideChannelResponse response;  // its status is OK
    std::vector<UniqueFd> fds;         // those that came along
  };
  // Sends one request, with a descriptor if `fd` is not -1, and waits for its answer. Other errors
  // are the daemon's refusals.
  absl::StatusOr<Answer> Ask(const v1::SideChannelRequest& request, int fd = -1);
  // The channel carries no more frames: its socket.
  UniqueFd TakeSocket();
  // Sends one whose answer nobody waits for.
  void Tell(const v1::SideChannelRequest& request);

 private:
  SideChannel(UniqueFd socket, absl::Duration timeout, absl::Time until)
      : timeout_(timeout), until_(until), socket_(std::move(socket)) {}

  absl::Time Deadline() const;

  absl::Status Send(const v1::SideChannelRequest& request, int fd)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The next answer; with `wait` false only one that has arrived, and CANCELLED if none has.
  absl::StatusOr<v1::SideChannelResponse> Receive(bool wait) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AwaitReady(short events, absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The channel is of no more use.
  absl::Status Break(const std::string& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const absl::Duration timeout_;
  const absl::Time until_;
  absl::Mutex mutex_;
  UniqueFd socket_ ABSL_GUARDED_BY(mutex_);
  size_t told_ ABSL_GUARDED_BY(mutex_) = 0;  // answers on their way that nobody waits for
  SideChannelDecoder decoder_ ABSL_GUARDED_BY(mutex_);
  // What came along with answers.
  std::vector<UniqueFd> fds_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_SIDE_CHANNEL_H_

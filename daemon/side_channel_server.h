#ifndef RUNLOOP_DAEMON_SIDE_CHANNEL_SERVER_H_
#define RUNLOOP_DAEMON_SIDE_CHANNEL_SERVER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runloop/daemon/log_limiter.h"
#include "runloop/daemon/peer_process.h"
#include "runloop/daemon/side_channel_requests.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/runtime/epoll_loop.h"

namespace runloop::daemon {

// One connection's place among those that its process may have; given back with the last copy.
using ConnectionSlot = std::shared_ptr<const void>;

// A connection that was let in, and what is held for as long as it is open.
struct AcceptedSocket {
  UniqueFd socket;
  PeerIdentity peer;
  ConnectionSlot slot;
  std::unique_ptr<PeerProcess> process;  // null: only the socket tells of the peer's end
};

// Serves the side channels (side_channel.proto): connections that carry file descriptors.
//
// Threads: the loop's thread only, but for construction and destruction while the loop does not
// run. The loop must outlive it. Destruction closes every channel.
//
// What is distrusted: every byte and every descriptor. A frame's length is checked before anything
// is stored for it, a message is parsed only when it is complete, and a descriptor is asked what
// it is. Descriptors that were not expected are closed, on a thread that nobody waits for; whose
// process or role has many that are still to be closed loses the channel with the next read. A peer
// that breaks the framing, does not read its responses, does not greet or finish a frame in time or
// attaches to what is not its session loses the channel, and so does a worker with a role that asks
// for anything else than what concerns its session; those of roles take no room from the others.
//
// What an unfinished frame holds, 64 KiB and 16 descriptors, counts against nobody's bound, and is
// held for `timeout` at most, from the frame's first byte on.
class SideChannelServer {
 public:
  // `timeout`: for the greeting, for a worker with a role to attach, and for each frame.
  // `deadline_changed`: next_deadline() has become earlier.
  SideChannelServer(EpollLoop& loop, SideChannelServices services, absl::Duration timeout,
                    LogSink log, std::function<void()> deadline_changed);
  ~SideChannelServer();

  // Serves a connection whose first byte is that of the magic.
  void Add(AcceptedSocket accepted);

  // The loop's owner calls CloseLate at this time, Clock::Monotonic. May be earlier than anything
  // is late.
  absl::Time next_deadline() const { return next_deadline_; }
  // Closes the channels that should have greeted, attached or finished a frame by now.
  void CloseLate(absl::Time now);

  size_t size() const { return channels_.size(); }

 private:
  struct Channel : AcceptedSocket {
    Channel(AcceptedSocket accepted, const SideChannelServices& services)
        : AcceptedSocket(std::move(accepted)),
          shared(std::make_shared<UniqueFd>(std::move(socket))),
          requests(services, peer, shared) {}

    // The socket; that of a ring's is used by whoever wakes the worker.
    const std::shared_ptr<const UniqueFd> shared;

    // For the greeting and for a frame that has begun; for a worker with a role also for attaching
    // to its session.
    absl::Time deadline = absl::InfiniteFuture();
    bool greeted = false;       // the magic was read
    std::string frame;          // what has arrived of the current one, its length included
    std::vector<UniqueFd> fds;  // that came with it
    SideChannelRequests requests;
  };

  void OnReadable(int fd);
  // Reads until nothing is left. An error ends the channel.
  absl::Status Read(Channel& channel);
  // Of one whose session has a ring: bytes that only say that there is something in it.
  absl::Status ReadKnocks(Channel& channel);
  // How many bytes complete what is being read: magic, length or message.
  static absl::StatusOr<size_t> Missing(const Channel& channel);
  void SetDeadline(Channel& channel);
  void Close(int fd);

  EpollLoop& loop_;
  const SideChannelServices services_;
  const absl::Duration timeout_;
  const std::function<void()> deadline_changed_;
  LogLimiter log_;
  absl::flat_hash_map<int, std::unique_ptr<Channel>> channels_;
  absl::flat_hash_map<std::string, size_t> by_role_;  // how many there are of each; "": no role
  absl::Time next_deadline_ = absl::InfiniteFuture();
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SIDE_CHANNEL_SERVER_H_

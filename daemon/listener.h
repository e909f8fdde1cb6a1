#ifndef RUNLOOP_DAEMON_LISTENER_H_
#define RUNLOOP_DAEMON_LISTENER_H_

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/daemon/connection_table.h"
#include "runloop/daemon/listening_socket.h"
#include "runloop/daemon/log_limiter.h"
#include "runloop/daemon/peer_process.h"
#include "runloop/daemon/side_channel_server.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/runtime/epoll_loop.h"

namespace runloop::daemon {

struct ListenerOptions {
  std::vector<ListeningSocket> sockets;
  // Gets each gRPC connection, in the table by then, and owns the descriptor from there on; `role`
  // is empty for one by a main socket. Called on the accept thread.
  std::function<void(int fd, const std::string& role)> serve;
  // Called on the accept thread after one of those has ended. May be null.
  std::function<void(const std::string& role)> ended;
  // These must outlive the listener.
  ConnectionTable* connections = nullptr;
  internal::BufferRegistry* buffers = nullptr;
  const SessionTokens* sessions = nullptr;
  RingServer* rings = nullptr;  // may be null
  LogSink log;
  // A connection that says nothing for so long is closed, and so is a side channel that has not
  // sent its greeting or does not finish a frame.
  absl::Duration first_byte_timeout = absl::Seconds(10);
  // Connections that may have said nothing yet; above that the oldest is closed.
  size_t max_pending = 256;
  // Connections of one process by the main sockets; and those of one role, by whatever processes,
  // since a worker in a sandbox may fork.
  size_t max_connections = 512;
  size_t max_role_connections = 256;
};

// Accepts connections, learns from the kernel who they are, and tells gRPC from the side channel by
// the first byte, which it leaves unread. Of each gRPC connection it keeps a duplicate of the
// descriptor, to learn of its end and to bring it about.
//
// A connection ends with the process that opened it, even where another one, such as a child, holds
// its socket: the socket is shut down, and the ordinary end of the connection follows. Where the
// kernel gives no pidfd (peer_process.h) it ends with its socket alone.
//
// Threads: one of its own, the accept thread, which does everything and never waits for a peer.
// Create and the destructor on the owner's thread.
// Ownership: it owns every descriptor that it has not handed to gRPC. Its destruction ends the
// thread, closes the sockets and side channels, and ends the connections' sessions; the
// connections themselves are gRPC's to close.
//
// What is distrusted: everything about a peer but its SO_PEERCRED and the socket it came in by.
// Another uid than the process's own is turned away at once. A peer that sends nothing or neither
// protocol costs one descriptor for a bounded time; one that speaks either has a bounded number of
// connections. Workers with a role take no room from the main sockets: of too many connections that
// have said nothing theirs are closed first, and the last descriptors are not for them. A role
// socket's description is shared with the peer that added it, so its flags are set again before
// each accept.
//
// Where the process has no descriptor left, connections wait in the kernel's backlog and accepting
// is tried again after 100 ms.
class Listener {
 public:
  static absl::StatusOr<std::unique_ptr<Listener>> Create(ListenerOptions options);
  ~Listener();

  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // `unix:/path` or `fd:N` of each main socket. Constant.
  const std::vector<std::string>& addresses() const { return addresses_; }

 private:
  // A socket that is accepted on, a main one or, with a role, one that a peer added.
  struct Source {
    int fd = -1;
    UniqueFd owned;    // a role socket
    std::string role;  // empty: a main socket
    bool broken = false;
  };
  // Who is counted together: a process, by the main sockets, or all of a role.
  using Holder = std::pair<int32_t, std::string>;

  // Accepted, and has sent nothing yet.
  struct Pending {
    AcceptedSocket accepted;
    absl::Time deadline;
  };
  using PendingList = std::list<Pending>;  // earliest deadline first
  // Handed to gRPC; its socket is the duplicate.
  struct Watched {
    AcceptedSocket accepted;
    int grpc_fd = -1;
    std::shared_ptr<Connection> connection;
  };

  explicit Listener(ListenerOptions options);
  absl::Status Start();

  // The accept thread, or the owner's while that does not run.
  absl::Status AddSource(Source source);
  void RemoveSource(int fd);
  void Accept(int fd);
  void PauseAccepting();
  void ResumeAccepting();
  void Admit(UniqueFd socket, const std::string& role);
  void Look(int fd);
  void Reject(PendingList::iterator pending, absl::string_view why);
  AcceptedSocket TakePending(PendingList::iterator pending);
  // Null if the process, or the role, has as many connections as it may.
  ConnectionSlot TakeSlot(const PeerIdentity& peer);
  void HandToGrpc(AcceptedSocket accepted);
  absl::StatusOr<int> DuplicateHigh(int fd);
  void OnHangUp(int fd);
  void OnProcessEnd(int fd, int32_t pid);
  void OnTimer();
  void SetTimer();

  // Constant after construction.
  const std::function<void(int, const std::string&)> serve_;
  const std::function<void(const std::string&)> ended_;
  ConnectionTable& connections_;
  const absl::Duration first_byte_timeout_;
  const size_t max_pending_;
  const size_t max_connections_;
  const size_t max_role_connections_;
  const std::vector<ListeningSocket> sockets_;
  const UniqueFd timer_;
  std::vector<std::string> addresses_;

  LogLimiter log_;

  // The accept thread.
  EpollLoop loop_;
  absl::flat_hash_map<int, Source> sources_;
  // An entry for each holder of a slot; before whatever holds one.
  absl::flat_hash_map<Holder, std::weak_ptr<const void>> slots_;
  PendingList pending_;
  absl::flat_hash_map<int, PendingList::iterator> pending_by_fd_;
  absl::flat_hash_map<int, Watched> watched_;
  bool accepting_ = true;
  absl::Time resume_at_ = absl::InfiniteFuture();
  int next_number_ = 0;  // the least descriptor number to hand to gRPC next
  SideChannelServer side_channels_;

  std::thread thread_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_LISTENER_H_

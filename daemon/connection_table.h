#ifndef RUNLOOP_DAEMON_CONNECTION_TABLE_H_
#define RUNLOOP_DAEMON_CONNECTION_TABLE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/session.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop::daemon {

// One gRPC connection: who is at its other end, and the session of the plain calls that come by it.
// Shared by the table and the calls in flight. Any thread.
//
// `peer` is what the kernel said when the connection was accepted and the role of the socket that
// it came in by. Nothing that the peer sends changes it; every decision about a call goes by it.
class Connection {
 public:
  Connection(uint64_t id, int fd, PeerIdentity peer, std::shared_ptr<const UniqueFd> process)
      : id_(id), fd_(fd), peer_(std::move(peer)), process_(std::move(process)) {}
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Unique for the life of the table, unlike its descriptor.
  uint64_t id() const { return id_; }
  // gRPC's descriptor: of this connection while a call that came by it lives.
  int fd() const { return fd_; }
  const PeerIdentity& peer() const { return peer_; }
  // A pidfd of the peer's process; null where there is none (peer_process.h).
  const std::shared_ptr<const UniqueFd>& process() const { return process_; }

  // The session of the calls that name none, opened by the first of them; null once the
  // connection has ended. RESOURCE_EXHAUSTED (QUEUE_FULL): the peer has as many sessions as it may.
  absl::StatusOr<std::shared_ptr<Session>> ImplicitSession(internal::RuntimeCore& core);

  // Ends the implicit session; none is opened any more. Idempotent.
  void End();

 private:
  // Constant after construction.
  const uint64_t id_;
  const int fd_;
  const PeerIdentity peer_;
  const std::shared_ptr<const UniqueFd> process_;

  absl::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);
};

// The open gRPC connections by the number of their descriptor, which is all that gRPC tells a
// handler about its peer (`fd:N`). A connection is added before its descriptor is handed to gRPC,
// and a number is not given twice while a call on it lives, so a handler that looks it up when its
// call starts finds its own connection or none. Any thread.
class ConnectionTable {
 public:
  ConnectionTable() = default;
  ConnectionTable(const ConnectionTable&) = delete;
  ConnectionTable& operator=(const ConnectionTable&) = delete;
  ~ConnectionTable();

  // A connection that still had the number has ended unnoticed, and ends now.
  std::shared_ptr<Connection> Add(int fd, PeerIdentity peer,
                                  std::shared_ptr<const UniqueFd> process = nullptr);

  // Takes the connection out, unless another one has its number by now, and ends it.
  void Remove(int fd, const std::shared_ptr<Connection>& connection);

  // The connection of a call whose context says that its peer is `peer`; null if there is none.
  std::shared_ptr<Connection> Find(std::string_view peer) const;

  size_t size() const;

  // Connections that never came in here: closed because their first bytes were neither protocol or
  // did not come, and because of who connected.
  std::atomic<uint64_t> rejected_connections{0};
  std::atomic<uint64_t> refused_peers{0};

 private:
  mutable absl::Mutex mutex_;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::flat_hash_map<int, std::shared_ptr<Connection>> connections_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_CONNECTION_TABLE_H_

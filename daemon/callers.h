#ifndef RUNLOOP_DAEMON_CALLERS_H_
#define RUNLOOP_DAEMON_CALLERS_H_

#include <grpcpp/server_context.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "runloop/daemon/connection_table.h"
#include "runloop/daemon/session_tokens.h"
#include "runloop/runtime/core.h"

namespace runloop::daemon {

// Who is calling, and in which session: the one place that decides it. Any thread. The table must
// outlive it.
//
// What is distrusted: the `runloop-session` metadata. It names a session; the call joins it only if
// it comes from the very identity that opened it: process, user and role. Who is not known, with
// the pid 0 of another pid namespace, joins none.
class Callers {
 public:
  Callers(std::shared_ptr<internal::RuntimeCore> core, const ConnectionTable& connections,
          SessionTokens& tokens)
      : core_(std::move(core)), connections_(connections), tokens_(tokens) {}

  // The connection that a call came by; to be asked while the call lives. UNAVAILABLE: it has gone
  // meanwhile.
  absl::StatusOr<std::shared_ptr<Connection>> ConnectionOf(
      const grpc::ServerContextBase& context) const;

  // OK if the call came by a main socket; PERMISSION_DENIED (NOT_ALLOWED) for a role.
  absl::Status CheckMainSocket(const grpc::ServerContextBase& context) const;

  // The session of a plain call. INVALID_ARGUMENT (UNKNOWN_SESSION): the one that it names does not
  // exist or belongs to somebody else, which the caller cannot tell apart. RESOURCE_EXHAUSTED
  // (QUEUE_FULL): the peer has as many sessions as it may.
  absl::StatusOr<std::shared_ptr<Session>> SessionOf(const grpc::ServerContextBase& context) const;

  // The sessions that calls may join, and side channels attach to with the token that it returns.
  // One that is there already, and goes on by another stream, keeps its token.
  std::string AddSession(const std::shared_ptr<Session>& session,
                         std::shared_ptr<RingOwner> ring_owner);
  void RemoveSession(const Session& session);
  // The session that a peer may resume; null if there is none.
  std::shared_ptr<Session> Resumable(const std::string& session_id, std::string_view token,
                                     const PeerIdentity& peer) const;

 private:
  const std::shared_ptr<internal::RuntimeCore> core_;
  const ConnectionTable& connections_;
  SessionTokens& tokens_;

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<Session>> sessions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_CALLERS_H_

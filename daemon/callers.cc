#include "runloop/daemon/callers.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

constexpr char kSessionKey[] = "runloop-session";

absl::Status ConnectionGone() {
  return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_NOT_CONNECTED,
                   "the connection has ended");
}

}  // namespace

absl::StatusOr<std::shared_ptr<Connection>> Callers::ConnectionOf(
    const grpc::ServerContextBase& context) const {
  std::shared_ptr<Connection> connection = connections_.Find(context.peer());
  if (connection == nullptr) return ConnectionGone();
  return connection;
}

absl::Status Callers::CheckMainSocket(const grpc::ServerContextBase& context) const {
  const absl::StatusOr<std::shared_ptr<Connection>> connection = ConnectionOf(context);
  if (!connection.ok()) return connection.status();
  const std::string& role = (*connection)->peer().role;
  if (role.empty()) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_ALLOWED,
      absl::StrCat("a worker with the role '", role,
                   "' may not look at or steer the daemon; connect to the main socket"),
      {{"role", role}});
}

absl::StatusOr<std::shared_ptr<Session>> Callers::SessionOf(
    const grpc::ServerContextBase& context) const {
  absl::StatusOr<std::shared_ptr<Connection>> connection = ConnectionOf(context);
  if (!connection.ok()) return connection.status();
  const auto named = context.client_metadata().find(kSessionKey);
  if (named == context.client_metadata().end()) {
    absl::StatusOr<std::shared_ptr<Session>> session = (*connection)->ImplicitSession(*core_);
    if (session.ok() && *session == nullptr) return ConnectionGone();
    return session;
  }
  {
    const absl::string_view id(named->second.data(), named->second.size());
    absl::MutexLock lock(&mutex_);
    const auto found = sessions_.find(id);
    // A pid of 0 is of a process in another pid namespace, and no bar between two of those.
    const bool known = (*connection)->peer().pid != 0;
    if (known && found != sessions_.end() && found->second->info().peer == (*connection)->peer()) {
      return found->second;
    }
  }
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_UNKNOWN_SESSION,
                   "the session named in the metadata runloop-session is not open, or belongs to "
                   "another process; open one with Dispatcher.Session");
}

std::string Callers::AddSession(const std::shared_ptr<Session>& session,
                                std::shared_ptr<RingOwner> ring_owner) {
  absl::MutexLock lock(&mutex_);
  sessions_[session->info().id] = session;
  return tokens_.Add(session, std::move(ring_owner));
}

std::shared_ptr<Session> Callers::Resumable(const std::string& session_id, std::string_view token,
                                            const PeerIdentity& peer) const {
  const absl::StatusOr<SessionTokens::Attached> found = tokens_.Attach(session_id, token, peer);
  return found.ok() && !found->session->ended() ? found->session : nullptr;
}

void Callers::RemoveSession(const Session& session) {
  tokens_.Remove(session);
  absl::MutexLock lock(&mutex_);
  sessions_.erase(session.info().id);
}

}  // namespace runloop::daemon

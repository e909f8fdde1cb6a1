#include "runloop/daemon/connection_table.h"

#include <charconv>
#include <utility>

#include "absl/strings/str_cat.h"

namespace runloop::daemon {

absl::StatusOr<std::shared_ptr<Session>> Connection::ImplicitSession(internal::RuntimeCore& core) {
  absl::MutexLock lock(&mutex_);
  if (ended_) return nullptr;
  if (session_ == nullptr) {
    absl::StatusOr<std::shared_ptr<Session>> opened = core.OpenPeerSession(
        {.id = absl::StrCat("connection-", id_), .peer = peer_, .transport = "call"});
    if (!opened.ok()) return opened;
    session_ = *std::move(opened);
  }
  return session_;
}

void Connection::End() {
  std::shared_ptr<Session> session;
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    session = std::move(session_);
    session_ = nullptr;
  }
  if (session != nullptr) session->End();
}

ConnectionTable::~ConnectionTable() {
  absl::flat_hash_map<int, std::shared_ptr<Connection>> left;
  {
    absl::MutexLock lock(&mutex_);
    left.swap(connections_);
  }
  for (const auto& [fd, connection] : left) connection->End();
}

std::shared_ptr<Connection> ConnectionTable::Add(int fd, PeerIdentity peer,
                                                 std::shared_ptr<const UniqueFd> process) {
  std::shared_ptr<Connection> stale;
  std::shared_ptr<Connection> added;
  {
    absl::MutexLock lock(&mutex_);
    added = std::make_shared<Connection>(next_id_++, fd, std::move(peer), std::move(process));
    stale = std::exchange(connections_[fd], added);
  }
  if (stale != nullptr) stale->End();
  return added;
}

void ConnectionTable::Remove(int fd, const std::shared_ptr<Connection>& connection) {
  {
    absl::MutexLock lock(&mutex_);
    const auto found = connections_.find(fd);
    if (found != connections_.end() && found->second == connection) connections_.erase(found);
  }
  connection->End();
}

std::shared_ptr<Connection> ConnectionTable::Find(std::string_view peer) const {
  constexpr std::string_view kPrefix = "fd:";
  int fd = -1;
  if (peer.substr(0, kPrefix.size()) != kPrefix) return nullptr;
  peer.remove_prefix(kPrefix.size());
  const char* const end = peer.data() + peer.size();
  if (std::from_chars(peer.data(), end, fd).ptr != end) return nullptr;
  absl::MutexLock lock(&mutex_);
  const auto found = connections_.find(fd);
  return found == connections_.end() ? nullptr : found->second;
}

size_t ConnectionTable::size() const {
  absl::MutexLock lock(&mutex_);
  return connections_.size();
}

}  // namespace runloop::daemon

#include "runloop/daemon/session_tokens.h"

#include <cstdint>
#include <random>
#include <utility>

#include "runloop/daemon/session_ring.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

constexpr size_t kTokenBytes = 16;

std::string NewToken() {
  std::random_device random;  // the kernel's
  std::string token;
  while (token.size() < kTokenBytes) {
    const uint32_t bits = random();
    token.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
  }
  return token;
}

// Takes as long whatever is in them, so that nobody finds a token byte by byte.
bool SameToken(std::string_view a, std::string_view b) {
  if (a.size() != kTokenBytes || b.size() != kTokenBytes) return false;
  volatile unsigned char differs = 0;
  for (size_t i = 0; i < kTokenBytes; ++i) {
    differs = static_cast<unsigned char>(
        differs | (static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i])));
  }
  return differs == 0;
}

}  // namespace

std::string SessionTokens::Add(const std::shared_ptr<Session>& session,
                               std::shared_ptr<RingOwner> ring_owner) {
  absl::MutexLock lock(&mutex_);
  Entry& entry = sessions_[session->info().id];
  entry.attached = {.session = session, .ring_owner = std::move(ring_owner)};
  if (entry.token.empty()) entry.token = NewToken();
  return entry.token;
}

void SessionTokens::Remove(const Session& session) {
  absl::MutexLock lock(&mutex_);
  sessions_.erase(session.info().id);
}

absl::StatusOr<SessionTokens::Attached> SessionTokens::Attach(const std::string& session_id,
                                                              std::string_view token,
                                                              const PeerIdentity& peer) const {
  {
    absl::MutexLock lock(&mutex_);
    const auto found = sessions_.find(session_id);
    // A pid of 0 is of a process in another pid namespace, and no bar between two of those.
    if (found != sessions_.end() && SameToken(found->second.token, token) && peer.pid != 0 &&
        found->second.attached.session->info().peer == peer) {
      return found->second.attached;
    }
  }
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_UNKNOWN_SESSION,
                   "no open session of this process has this id and this token: take both from "
                   "the welcome of Dispatcher.Session");
}

absl::StatusOr<std::shared_ptr<Session>> SessionTokens::Find(const std::string& session_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = sessions_.find(session_id);
  if (found != sessions_.end()) return found->second.attached.session;
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_UNKNOWN_SESSION,
                   "no session of this id is open");
}

}  // namespace runloop::daemon

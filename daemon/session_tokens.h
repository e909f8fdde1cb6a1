#ifndef RUNLOOP_DAEMON_SESSION_TOKENS_H_
#define RUNLOOP_DAEMON_SESSION_TOKENS_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "runloop/runtime/session.h"

namespace runloop::daemon {

class RingOwner;

// The sessions of all session streams, each with the secret by which a side channel is attached to
// it. Any thread.
//
// What is distrusted: both the id and the token, which must be those of one session, and who sends
// them, who must be whom the kernel said the session's peer was: process, user and role.
class SessionTokens {
 public:
  // Returns its token: 128 random bits. One that is there keeps its token.
  std::string Add(const std::shared_ptr<Session>& session, std::shared_ptr<RingOwner> ring_owner);
  void Remove(const Session& session);

  struct Attached {
    std::shared_ptr<Session> session;
    std::shared_ptr<RingOwner> ring_owner;  // what to tell of a ring; null: it can have none
  };
  // INVALID_ARGUMENT (UNKNOWN_SESSION): whatever it is that does not fit.
  absl::StatusOr<Attached> Attach(const std::string& session_id, std::string_view token,
                                  const PeerIdentity& peer) const;
  // By its id alone, to grant it something. INVALID_ARGUMENT (UNKNOWN_SESSION).
  absl::StatusOr<std::shared_ptr<Session>> Find(const std::string& session_id) const;

 private:
  struct Entry {
    Attached attached;
    std::string token;
  };

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, Entry> sessions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_TOKENS_H_

#include "runloop/client/remote_invocation.h"

#include "runloop/client/session_client.h"

namespace runloop::internal {

void RemoteInvocation::Cancel() {
  if (std::shared_ptr<SessionClient> client = client_.lock()) client->Cancel(*this);
}

void RemoteInvocation::AlsoWaits(Chain chain) {
  if (std::shared_ptr<SessionClient> client = client_.lock()) client->AlsoWaits(*this, chain);
}

bool RemoteInvocation::WaitWouldDeadlock() const {
  const std::shared_ptr<SessionClient> client = client_.lock();
  return client != nullptr && client->OnClientThread();
}

void RemoteInvocation::BringOutcome(absl::Time deadline) {
  if (done()) return;
  if (std::shared_ptr<SessionClient> client = client_.lock()) client->BringOutcome(*this, deadline);
}

void RemoteInvocation::OnDone() {
  if (sleepers.load() == 0) return;
  if (std::shared_ptr<SessionClient> client = client_.lock()) client->WakeSleepers(*this);
}

}  // namespace runloop::internal

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

}  // namespace runloop::internal

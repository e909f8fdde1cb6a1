#ifndef RUNLOOP_CLIENT_REMOTE_INVOCATION_H_
#define RUNLOOP_CLIENT_REMOTE_INVOCATION_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runloop/runtime/invocation.h"

namespace runloop::internal {

class SessionClient;

// An invocation that runs in another process. Thread-safe; outlives the client.
class RemoteInvocation final : public InvocationState {
 public:
  RemoteInvocation(std::weak_ptr<SessionClient> client, bool reply_wanted)
      : reply_wanted(reply_wanted), client_(std::move(client)) {}

  void Cancel() override;
  void AlsoWaits(Chain chain) override;
  // True on the client's thread, where what Watch left runs.
  bool WaitWouldDeadlock() const override;

  const bool reply_wanted;

  // Given on admission, before any other thread knows of the invocation; constant from then on.
  uint64_t id = 0;
  size_t request_bytes = 0;
  // What it counts against the client's bound on unfinished bytes.
  size_t charge() const { return ChargeOf(request_bytes); }
  static size_t ChargeOf(size_t request_bytes) { return std::max<size_t>(request_bytes, 64); }

  // The client's, under its lock.
  std::string operation;  // once a session has taken it
  bool cancel_sent = false;
  bool given_up = false;
  std::vector<Chain> waiting;  // who waits for it, until a session has taken it

  // Threads in SessionClient::BringOutcome that sleep until it is done. Raised under the client's
  // lock, and before they look whether it is.
  std::atomic<int> sleepers{0};

 protected:
  void BringOutcome(absl::Time deadline) override;
  void OnDone() override;

 private:
  const std::weak_ptr<SessionClient> client_;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_REMOTE_INVOCATION_H_

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

// An invocation that runs in another process. Thread-safe; outlives the client. As small as a cache
// line: the thread that finishes it is mostly another one than the one that made it.
class RemoteInvocation final : public InvocationState {
 public:
  // `client` outlives it; null: it has none.
  RemoteInvocation(const std::weak_ptr<SessionClient>* client, bool is_reply_wanted)
      : reply_wanted(is_reply_wanted), client_(client) {}

  void Cancel() override;
  void Stop() override;
  void AlsoWaits(Chain chain) override;
  // True on the client's thread, where what Watch left runs.
  bool WaitWouldDeadlock() const override;

  // What one with a request of so many bytes counts against the client's bound on unfinished bytes.
  static size_t ChargeOf(size_t request_bytes) { return std::max<size_t>(request_bytes, 64); }

  // Given on admission, before any other thread knows of the invocation; constant from then on.
  uint64_t id = 0;

  const bool reply_wanted;

  // The client's, under its lock.
  bool cancel_sent : 1 = false;
  bool given_up : 1 = false;
  bool stopped : 1 = false;  // given up because stop was requested

  // A thread has slept in SessionClient::BringOutcome until it is done. Set under the client's
  // lock, and before that thread looks whether it is.
  std::atomic<bool> awaited{false};

  // The client's, under its lock. Which operation it is, once a session has taken it, by the
  // session's number; 0: it has none.
  uint32_t operation_id = 0;
  struct Extra {
    std::string operation;       // once a session has taken it that has no number for it
    std::vector<Chain> waiting;  // who waits for it, until a session has taken it
  };
  std::unique_ptr<Extra> extra;  // null: nothing

 protected:
  void BringOutcome(absl::Time deadline) override;
  void OnDone() override;

 private:
  std::shared_ptr<SessionClient> client() const;

  const std::weak_ptr<SessionClient>* const client_;
};

// Makes the invocations of one client. Those that bring no reply share an allocation, and what
// keeps it alive, with a few that are made after one another. Not thread-safe.
class InvocationAllocator {
 public:
  std::shared_ptr<RemoteInvocation> New(SessionClient& client, bool reply_wanted);

 private:
  struct Block;

  std::shared_ptr<Block> block_;  // null: the last one is full
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_REMOTE_INVOCATION_H_

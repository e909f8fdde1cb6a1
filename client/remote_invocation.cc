#include "runloop/client/remote_invocation.h"

#include <utility>

#include "runloop/client/session_client.h"

namespace runloop::internal {
namespace {

// Whoever keeps one invocation keeps the memory of so many.
constexpr size_t kInBlock = 8;

static_assert(sizeof(RemoteInvocation) <= 64);

}  // namespace

void RemoteInvocation::Cancel() {
  if (const std::shared_ptr<SessionClient> to = client()) to->Cancel(*this);
}

void RemoteInvocation::Stop() {
  if (const std::shared_ptr<SessionClient> to = client()) to->Stop(*this);
}

void RemoteInvocation::AlsoWaits(Chain chain) {
  if (const std::shared_ptr<SessionClient> to = client()) to->AlsoWaits(*this, chain);
}

bool RemoteInvocation::WaitWouldDeadlock() const {
  const std::shared_ptr<SessionClient> of = client();
  return of != nullptr && of->OnClientThread();
}

void RemoteInvocation::BringOutcome(absl::Time deadline) {
  if (done()) return;
  if (const std::shared_ptr<SessionClient> of = client()) of->BringOutcome(*this, deadline);
}

void RemoteInvocation::OnDone() {
  if (!awaited.load()) return;
  if (const std::shared_ptr<SessionClient> of = client()) of->WakeSleepers(*this);
}

std::shared_ptr<SessionClient> RemoteInvocation::client() const {
  return client_ == nullptr ? nullptr : client_->lock();
}

struct InvocationAllocator::Block {
  explicit Block(SessionClient& of) : client(of.weak_from_this()) {}
  ~Block() { std::destroy_n(invocations, made); }

  RemoteInvocation* New(bool reply_wanted) {
    return std::construct_at(&invocations[made++], &client, reply_wanted);
  }

  const std::weak_ptr<SessionClient> client;
  size_t made = 0;
  union {
    RemoteInvocation invocations[kInBlock];
  };
};

std::shared_ptr<RemoteInvocation> InvocationAllocator::New(SessionClient& client,
                                                           bool reply_wanted) {
  if (reply_wanted) {
    // Alone, so that a reply lives no longer than the invocation.
    struct Single {
      explicit Single(SessionClient& of) : client(of.weak_from_this()), invocation(&client, true) {}
      const std::weak_ptr<SessionClient> client;
      RemoteInvocation invocation;
    };
    const auto single = std::make_shared<Single>(client);
    return {single, &single->invocation};
  }
  if (block_ == nullptr) block_ = std::make_shared<Block>(client);
  RemoteInvocation* const invocation = block_->New(reply_wanted);
  if (block_->made < kInBlock) return {block_, invocation};
  return {std::exchange(block_, nullptr), invocation};
}

}  // namespace runloop::internal

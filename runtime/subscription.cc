#include "runloop/runtime/subscription.h"

#include <utility>

namespace runloop::internal {
namespace {

// Callbacks in a row, before others on that thread have their turn.
constexpr int kCallbacksAtOnce = 64;

}  // namespace

// Runs callbacks once. If whoever should have run it lets it go, the next notification makes
// another.
class SubscriptionState::Turn {
 public:
  explicit Turn(std::shared_ptr<SubscriptionState> state) : state_(std::move(state)) {}
  Turn(Turn&&) noexcept = default;
  ~Turn() {
    if (state_ != nullptr) state_->queue_->Rest();
  }

  void Run() && { std::exchange(state_, nullptr)->RunCallbacks(); }
  // Where the subscriber wants it. On a thread of the library's.
  void RunOrPost() && {
    const std::shared_ptr<SubscriptionState> state = state_;
    if (state->call_.options.executor) {
      std::move(*this).Post();
    } else {
      std::move(*this).Run();
    }
  }
  void Post() && {
    const std::shared_ptr<SubscriptionState> state = state_;
    state->call_.options.executor([turn = std::move(*this)]() mutable { std::move(turn).Run(); });
  }

 private:
  std::shared_ptr<SubscriptionState> state_;
};

void SubscriptionState::Begin(std::shared_ptr<Session> session) {
  // Whoever publishes may keep the queue for longer than this is there.
  std::function<void()> wake = [weak = weak_from_this()] {
    if (const std::shared_ptr<SubscriptionState> state = weak.lock()) state->OnWake();
  };
  queue_ = std::make_shared<NotificationQueue>(call_.options.bounds, std::move(wake),
                                               std::move(session));
  if (call_.callback) (void)queue_->Sleep();
}

void SubscriptionState::OnWake() {
  PostCallbacks([turn = Turn(shared_from_this())]() mutable { std::move(turn).RunOrPost(); });
}

void SubscriptionState::RunCallbacks() {
  for (int i = 0; i < kCallbacksAtOnce; ++i) {
    std::optional<QueuedNotification> taken;
    {
      absl::MutexLock lock(&mutex_);
      if (ended_) return;
      taken = Poll();
      if (taken.has_value()) runs_on_ = std::this_thread::get_id();
    }
    if (taken.has_value()) {
      if (!call_.callback(*taken)) CountInvalid();
      absl::MutexLock lock(&mutex_);
      runs_on_ = std::thread::id();
      idle_.SignalAll();
    } else if (queue_->Sleep() || !queue_->status().ok()) {
      return;
    }
  }
  Turn next(shared_from_this());
  if (call_.options.executor) {
    std::move(next).Post();
  } else {
    PostCallbacks([turn = std::move(next)]() mutable { std::move(turn).RunOrPost(); });
  }
}

void SubscriptionState::End() {
  Unsubscribe();
  absl::MutexLock lock(&mutex_);
  ended_ = true;
  while (runs_on_ != std::thread::id() && runs_on_ != std::this_thread::get_id()) {
    idle_.Wait(&mutex_);
  }
}

absl::Status SubscriptionState::status() const {
  if (absl::Status ended = queue_->status(); !ended.ok()) return ended;
  absl::MutexLock lock(&mutex_);
  return status_;
}

void SubscriptionState::SetStatus(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  status_ = std::move(status);
}

std::optional<QueuedNotification> SubscriptionState::Poll() {
  std::optional<QueuedNotification> taken = queue_->Take();
  if (taken.has_value()) dropped_.fetch_add(taken->dropped, std::memory_order_relaxed);
  return taken;
}

std::optional<QueuedNotification> SubscriptionState::Next(absl::Duration timeout) {
  queue_->Await(timeout);
  return Poll();
}

}  // namespace runloop::internal

#ifndef RUNLOOP_RUNTIME_SUBSCRIPTION_H_
#define RUNLOOP_RUNTIME_SUBSCRIPTION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "google/protobuf/descriptor.h"
#include "runloop/runtime/bounds.h"
#include "runloop/runtime/executor.h"
#include "runloop/runtime/notification_queue.h"

namespace runloop {

struct SubscribeOptions {
  // What may wait here until it is taken; what comes on top drops the oldest, and the next one
  // tells how many were (Notification::dropped).
  NotificationBounds bounds;
  // Runs what it is given, later, on the thread where callbacks are to run, such as by posting it
  // to that thread's loop; it must not run it at once, must not block, and must not throw. What it
  // drops is handed over again with the next notification (executor.h). Empty:
  // callbacks run on a thread of the library's: the one that runs Watch callbacks of a connection
  // (client/connect.h), in process one that is there for nothing else. They must not block there.
  Executor executor;
};

// One message that was published, as a subscriber gets it.
template <typename Message>
struct Notification {
  std::shared_ptr<const Message> message;  // never null; in process the one that was published
  // Which of those that were meant for this subscription it is, counted from 1, by one connection.
  // What is skipped was dropped or gave its place to a newer one.
  uint64_t sequence = 0;
  // How many were dropped before it, since the last that came, because somebody was slow: the
  // subscriber, or its connection. What gave its place to a newer one does not count.
  uint64_t dropped = 0;
  // The connection was lost before it, and another stands: some may be missing that nobody has
  // counted. What depends on all of them should ask for the state again.
  bool gap = false;
  absl::Time publish_time;  // by the host's clock of day
};

namespace internal {

// The worker's end of a subscription, in process or over a connection. Thread-safe. The transport
// derives from it to end it; what it brings goes into queue().
class SubscriptionState : public std::enable_shared_from_this<SubscriptionState> {
 public:
  // False: it is no message of the type.
  using Callback = std::function<bool(const QueuedNotification&)>;
  // What Subscribe was asked for.
  struct Call {
    std::string topic;
    const google::protobuf::Descriptor* type = nullptr;
    SubscribeOptions options;
    Callback callback;  // may be empty
  };

  virtual ~SubscriptionState() = default;

  const std::string& topic() const { return call_.topic; }
  const google::protobuf::Descriptor* type() const { return call_.type; }
  const std::shared_ptr<NotificationQueue>& queue() const { return queue_; }

  // Nothing is called back any more when this returns, unless it is called by the callback itself:
  // then that is the last.
  void End();

  absl::Status status() const;
  // Why there are no notifications for the time being; OK: there may be.
  void SetStatus(absl::Status status);

  // As Subscription's.
  std::optional<QueuedNotification> Poll();
  std::optional<QueuedNotification> Next(absl::Duration timeout);
  uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }
  // One that came was no message of the type.
  void CountInvalid() { dropped_.fetch_add(1, std::memory_order_relaxed); }

 protected:
  explicit SubscriptionState(Call call) : call_(std::move(call)) {}
  // Makes the queue, once this is shared. `session`: as the queue's.
  void Begin(std::shared_ptr<Session> session = nullptr);
  // Has RunCallbacks called on a thread of the library's, later.
  virtual void PostCallbacks(absl::AnyInvocable<void() &&> run) = 0;
  // Ends it where it comes from.
  virtual void Unsubscribe() = 0;

 private:
  class Turn;

  void OnWake();
  // What has come, some at a time.
  void RunCallbacks();

  const Call call_;
  std::shared_ptr<NotificationQueue> queue_;  // constant after Begin
  std::atomic<uint64_t> dropped_{0};

  mutable absl::Mutex mutex_;
  absl::CondVar idle_;
  std::thread::id runs_on_ ABSL_GUARDED_BY(mutex_);  // the callback, now
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

// nullopt: its bytes are no Message.
template <typename Message>
std::optional<Notification<Message>> ToNotification(const QueuedNotification& queued) {
  const Publication& publication = *queued.publication;
  Notification<Message> notification{.message = nullptr,
                                     .sequence = queued.sequence,
                                     .dropped = queued.dropped,
                                     .gap = queued.gap,
                                     .publish_time = publication.time()};
  if (publication.message() != nullptr) {
    notification.message = std::static_pointer_cast<const Message>(publication.message());
  } else {
    auto parsed = std::make_shared<Message>();
    if (!parsed->ParseFromString(publication.bytes())) return std::nullopt;
    notification.message = std::move(parsed);
  }
  return notification;
}

}  // namespace internal

// What RuntimeContext::Subscribe gives: notifications come until it is destroyed. Move-only; one
// thread at a time, but status and dropped from any.
//
// With a callback, that gets them, one at a time, in their order; else Poll and Next do. The
// destructor waits for a callback that is running, unless it is called by that; afterwards there is
// none. So do not hold, while destroying it, a lock that the callback takes.
//
// It ends with the session of its context, when the last context is gone, or, in process, when the
// runtime drains or stops: what waits then can still be taken, and callbacks go on for
// it: over a connection as long as there is a context, in process as long as the runtime lives.
// Over a connection, a daemon that drains sends what waits before it ends the session, as far as
// this side reads it within a second; and what is lost with a connection (client/connect.h) is
// subscribed to again by the next one, and the first notification of that says so
// (Notification::gap).
template <typename Message>
class Subscription {
 public:
  explicit Subscription(std::shared_ptr<internal::SubscriptionState> state)
      : state_(std::move(state)) {}
  Subscription(Subscription&&) noexcept = default;
  Subscription& operator=(Subscription&& other) noexcept {
    if (this != &other) {
      End();
      state_ = std::move(other.state_);
    }
    return *this;
  }
  ~Subscription() { End(); }

  // The next notification if it is there. Never waits.
  std::optional<Notification<Message>> Poll() {
    while (std::optional<internal::QueuedNotification> queued = state_->Poll()) {
      auto notification = internal::ToNotification<Message>(*queued);
      if (notification.has_value()) return notification;
      state_->CountInvalid();
    }
    return std::nullopt;
  }
  // Waits for it, for `timeout` at most. nullopt: there was none, or it has ended, as status()
  // says. Not on the thread that runs Watch callbacks of a connection.
  std::optional<Notification<Message>> Next(absl::Duration timeout) {
    const std::optional<internal::QueuedNotification> queued = state_->Next(timeout);
    if (!queued.has_value()) return std::nullopt;
    auto notification = internal::ToNotification<Message>(*queued);
    if (notification.has_value()) return notification;
    state_->CountInvalid();
    return Poll();
  }

  // How many were dropped before what was taken so far.
  uint64_t dropped() const { return state_->dropped(); }
  // OK while there may be notifications, also while the client connects again. NOT_FOUND
  // (UNKNOWN_TOPIC), RESOURCE_EXHAUSTED (SUBSCRIPTIONS_FULL): the daemon has none for it, and is
  // asked again in the next session. ABORTED (SESSION_ENDED), UNAVAILABLE (RUNTIME_STOPPED,
  // DRAINING, NOT_CONNECTED): it has ended.
  absl::Status status() const { return state_->status(); }

 private:
  void End() {
    if (state_ != nullptr) std::exchange(state_, nullptr)->End();
  }

  std::shared_ptr<internal::SubscriptionState> state_;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_SUBSCRIPTION_H_

#include "runloop/runtime/notification_queue.h"

#include <algorithm>
#include <utility>

#include "runloop/runtime/session.h"

namespace runloop::internal {

NotificationQueue::NotificationQueue(NotificationBounds bounds, std::function<void()> wake,
                                     std::shared_ptr<Session> session)
    : bounds_(bounds), wake_(std::move(wake)), session_(std::move(session)) {}

bool NotificationQueue::Push(QueuedNotification notification, bool latest) {
  // Released outside the lock.
  std::shared_ptr<const Publication> replaced;
  absl::MutexLock lock(&mutex_);
  if (finished_ || !why_ended_.ok()) return false;
  const size_t size = notification.publication->size();
  if (size > bounds_.bytes || bounds_.items == 0) {
    CountDropped(std::move(notification));
    return false;
  }
  if (latest && held_[notification.subscription].items > 0) {
    QueuedNotification& older = *FirstOf(notification.subscription);
    if (const auto& topic = older.publication->topic(); topic != nullptr) {
      topic->statistics().replaced.fetch_add(1, std::memory_order_relaxed);
    }
    notification.dropped += older.dropped;
    notification.gap |= older.gap;
    const size_t before = older.publication->size();
    bytes_ += size - before;
    held_[notification.subscription].bytes += size - before;
    replaced = std::exchange(older, std::move(notification)).publication;
    while (bytes_ > bounds_.bytes) DropOne();
    return TakeSleep();
  }
  while (!Fits(size)) DropOne();
  Held& held = held_[notification.subscription];
  ++held.items;
  held.bytes += size;
  bytes_ += size;
  waiting_.push_back(std::move(notification));
  return TakeSleep();
}

void NotificationQueue::CountDropped(QueuedNotification dropped) {
  Held& held = held_[dropped.subscription];
  held.dropped += 1 + dropped.dropped;
  held.gap |= dropped.gap;
  if (const auto& topic = dropped.publication->topic(); topic != nullptr) {
    topic->statistics().dropped.fetch_add(1, std::memory_order_relaxed);
  }
  if (session_ != nullptr) {
    session_->notifications().dropped.fetch_add(1, std::memory_order_relaxed);
  }
}

void NotificationQueue::DropOne() {
  const bool by_bytes = waiting_.size() < bounds_.items;
  const auto most = std::max_element(held_.begin(), held_.end(), [&](const auto& a, const auto& b) {
    return by_bytes ? a.second.bytes < b.second.bytes : a.second.items < b.second.items;
  });
  CountDropped(Remove(FirstOf(most->first)));
}

NotificationQueue::Notifications::iterator NotificationQueue::FirstOf(uint64_t subscription) {
  return std::find_if(waiting_.begin(), waiting_.end(), [&](const QueuedNotification& waiting) {
    return waiting.subscription == subscription;
  });
}

QueuedNotification NotificationQueue::Remove(Notifications::iterator place) {
  QueuedNotification removed = std::move(*place);
  waiting_.erase(place);
  const size_t size = removed.publication->size();
  Held& held = held_[removed.subscription];
  --held.items;
  held.bytes -= size;
  bytes_ -= size;
  return removed;
}

bool NotificationQueue::TakeSleep() { return std::exchange(asleep_, false); }

std::optional<QueuedNotification> NotificationQueue::Take(size_t most_bytes) {
  absl::MutexLock lock(&mutex_);
  if (waiting_.empty() || waiting_.front().publication->size() > most_bytes) return std::nullopt;
  QueuedNotification taken = Remove(waiting_.begin());
  Held& held = held_[taken.subscription];
  taken.dropped += std::exchange(held.dropped, 0);
  taken.gap |= std::exchange(held.gap, false);
  if (held.items == 0) held_.erase(taken.subscription);
  if (const auto& topic = taken.publication->topic(); topic != nullptr) {
    topic->statistics().delivered.fetch_add(1, std::memory_order_relaxed);
  }
  if (session_ != nullptr) {
    session_->notifications().delivered.fetch_add(1, std::memory_order_relaxed);
  }
  return taken;
}

void NotificationQueue::Await(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(this, &NotificationQueue::ended_or_has_any), timeout);
}

bool NotificationQueue::Sleep() {
  absl::MutexLock lock(&mutex_);
  asleep_ = !ended_or_has_any();
  return asleep_;
}

void NotificationQueue::Rest() {
  absl::MutexLock lock(&mutex_);
  asleep_ = why_ended_.ok();
}

bool NotificationQueue::empty() const {
  absl::MutexLock lock(&mutex_);
  return waiting_.empty();
}

void NotificationQueue::Forget(uint64_t subscription) {
  Notifications forgotten;  // released outside the lock
  absl::MutexLock lock(&mutex_);
  for (auto place = FirstOf(subscription); place != waiting_.end(); place = FirstOf(subscription)) {
    forgotten.push_back(Remove(place));
  }
  held_.erase(subscription);
}

void NotificationQueue::Finish() {
  absl::MutexLock lock(&mutex_);
  finished_ = true;
}

bool NotificationQueue::End(absl::Status why) {
  absl::MutexLock lock(&mutex_);
  if (why_ended_.ok()) why_ended_ = std::move(why);
  return TakeSleep();
}

bool NotificationQueue::Drop(absl::Status why) {
  Notifications dropped;  // released outside the lock
  absl::MutexLock lock(&mutex_);
  if (why_ended_.ok()) why_ended_ = std::move(why);
  dropped.swap(waiting_);
  held_.clear();
  bytes_ = 0;
  return TakeSleep();
}

absl::Status NotificationQueue::status() const {
  absl::MutexLock lock(&mutex_);
  return waiting_.empty() ? why_ended_ : absl::OkStatus();
}

}  // namespace runloop::internal

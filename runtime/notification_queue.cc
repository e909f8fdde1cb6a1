#include "runloop/runtime/notification_queue.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "runloop/runtime/session.h"

namespace runloop::internal {
namespace {

// So few subscriptions are compared each time.
constexpr size_t kFew = 8;

}  // namespace

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
  Held& held = held_[notification.subscription];
  if (latest && held.items > 0) {
    QueuedNotification& older = held.first->notification;
    if (const auto& topic = older.publication->topic(); topic != nullptr) {
      topic->statistics().replaced.fetch_add(1, std::memory_order_relaxed);
    }
    notification.dropped += older.dropped;
    notification.gap |= older.gap;
    SetHeld(notification.subscription, held, held.items,
            held.bytes + size - older.publication->size());
    replaced = std::exchange(older, std::move(notification)).publication;
    while (bytes_ > bounds_.bytes) DropOne();
    return TakeSleep();
  }
  while (!Fits(size)) DropOne();
  const uint64_t subscription = notification.subscription;
  const Place place = waiting_.insert(waiting_.end(), {.notification = std::move(notification)});
  (held.items == 0 ? held.first : held.last->next) = place;
  held.last = place;
  SetHeld(subscription, held, held.items + 1, held.bytes + size);
  return TakeSleep();
}

void NotificationQueue::SetHeld(uint64_t subscription, Held& held, size_t items, size_t bytes) {
  if (ranked_) {
    // Nodes are used again.
    const auto move = [&](Rank& rank, size_t from, size_t to) {
      Rank::node_type node;
      if (held.items > 0) node = rank.extract({from, subscription});
      if (items == 0) return;
      if (node.empty()) {
        rank.emplace(to, subscription);
      } else {
        node.value().first = to;
        rank.insert(std::move(node));
      }
    };
    move(by_items_, held.items, items);
    move(by_bytes_, held.bytes, bytes);
  }
  bytes_ += bytes - held.bytes;
  held.items = items;
  held.bytes = bytes;
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
  CountDropped(RemoveFirst(Largest(/*by_bytes=*/waiting_.size() < bounds_.items)));
}

uint64_t NotificationQueue::Largest(bool by_bytes) {
  if (held_.size() <= kFew) {
    const auto rank = [&](const auto& each) {
      return std::make_pair(by_bytes ? each.second.bytes : each.second.items, each.first);
    };
    return std::max_element(held_.begin(), held_.end(),
                            [&](const auto& a, const auto& b) { return rank(a) < rank(b); })
        ->first;
  }
  if (!std::exchange(ranked_, true)) {
    for (const auto& [subscription, held] : held_) {
      if (held.items == 0) continue;
      by_items_.emplace(held.items, subscription);
      by_bytes_.emplace(held.bytes, subscription);
    }
  }
  return (by_bytes ? by_bytes_ : by_items_).rbegin()->second;
}

QueuedNotification NotificationQueue::RemoveFirst(uint64_t subscription) {
  Held& held = held_[subscription];
  const Place place = std::exchange(held.first, held.first->next);
  QueuedNotification removed = std::move(place->notification);
  waiting_.erase(place);
  SetHeld(subscription, held, held.items - 1, held.bytes - removed.publication->size());
  if (waiting_.empty()) ranked_ = false;  // and nobody is in it
  return removed;
}

bool NotificationQueue::TakeSleep() { return std::exchange(asleep_, false); }

std::optional<QueuedNotification> NotificationQueue::Take(size_t most_bytes) {
  absl::MutexLock lock(&mutex_);
  if (waiting_.empty()) return std::nullopt;
  const QueuedNotification& oldest = waiting_.front().notification;
  if (oldest.publication->size() > most_bytes) return std::nullopt;
  QueuedNotification taken = RemoveFirst(oldest.subscription);
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
  std::vector<QueuedNotification> forgotten;  // released outside the lock
  absl::MutexLock lock(&mutex_);
  const auto held = held_.find(subscription);
  if (held == held_.end()) return;
  while (held->second.items > 0) forgotten.push_back(RemoveFirst(subscription));
  held_.erase(held);
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
  ranked_ = false;
  by_items_.clear();
  by_bytes_.clear();
  bytes_ = 0;
  return TakeSleep();
}

absl::Status NotificationQueue::status() const {
  absl::MutexLock lock(&mutex_);
  return waiting_.empty() ? why_ended_ : absl::OkStatus();
}

}  // namespace runloop::internal

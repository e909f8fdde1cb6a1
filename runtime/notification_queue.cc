#include "runloop/runtime/notification_queue.h"

#include <algorithm>
#include <tuple>
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
  std::vector<QueuedNotification> dropped;
  absl::MutexLock lock(&mutex_);
  if (finished_ || !why_ended_.ok()) return false;
  const size_t size = notification.publication->size();
  const uint64_t subscription = notification.subscription;
  Held& held = held_[subscription];
  if (size > bounds_.bytes || bounds_.items == 0) {
    CountDropped(notification, held.before_next);
    return false;
  }
  notification.dropped += std::exchange(held.before_next.dropped, 0);
  notification.gap |= std::exchange(held.before_next.gap, false);
  if (latest && held.items > 0) {
    QueuedNotification& older = held.last->notification;
    if (const auto& topic = older.publication->topic(); topic != nullptr) {
      topic->statistics().replaced.fetch_add(1, std::memory_order_relaxed);
    }
    notification.dropped += older.dropped;
    notification.gap |= older.gap;
    SetHeld(subscription, held, held.items, held.bytes - older.publication->size());
    replaced = std::exchange(older, std::move(notification)).publication;
    // Not counted yet, so others make room for it.
    while (bytes_ + size > bounds_.bytes) dropped.push_back(DropOne(/*by_bytes=*/true));
    SetHeld(subscription, held, held.items, held.bytes + size);
    return TakeSleep();
  }
  while (!Fits(size)) {
    dropped.push_back(DropOne(/*by_bytes=*/waiting_.size() < bounds_.items));
  }
  const Place place = waiting_.insert(
      waiting_.end(), {.notification = std::move(notification), .number = ++last_number_});
  (held.items == 0 ? held.first : held.last->next) = place;
  held.last = place;
  SetHeld(subscription, held, held.items + 1, held.bytes + size);
  return TakeSleep();
}

void NotificationQueue::SetHeld(uint64_t subscription, Held& held, size_t items, size_t bytes) {
  const uint64_t age = items > 0 ? ~held.first->number : 0;
  if (ranked_) {
    // Nodes are used again.
    const auto move = [&](Rank& rank, size_t from, size_t to) {
      Rank::node_type node;
      if (held.items > 0) node = rank.extract({from, held.age});
      if (items == 0) return;
      if (node.empty()) {
        rank.emplace(std::make_pair(to, age), subscription);
      } else {
        node.key() = {to, age};
        rank.insert(std::move(node));
      }
    };
    move(by_items_, held.items, items);
    move(by_bytes_, held.bytes, bytes);
  }
  bytes_ += bytes - held.bytes;
  held.items = items;
  held.bytes = bytes;
  held.age = age;
}

void NotificationQueue::CountDropped(const QueuedNotification& dropped, Missed& missed) {
  missed.dropped += 1 + dropped.dropped;
  missed.gap |= dropped.gap;
  if (const auto& topic = dropped.publication->topic(); topic != nullptr) {
    topic->statistics().dropped.fetch_add(1, std::memory_order_relaxed);
  }
  if (session_ != nullptr) {
    session_->notifications().dropped.fetch_add(1, std::memory_order_relaxed);
  }
}

QueuedNotification NotificationQueue::DropOne(bool by_bytes) {
  const uint64_t subscription = Largest(by_bytes);
  QueuedNotification dropped = RemoveFirst(subscription);
  CountDropped(dropped, held_.at(subscription).before_first);
  return dropped;
}

uint64_t NotificationQueue::Largest(bool by_bytes) {
  if (held_.size() <= kFew) {
    // What holds nothing is behind all others.
    const auto rank = [&](const auto& each) {
      const Held& held = each.second;
      return std::make_tuple(held.items > 0, by_bytes ? held.bytes : held.items, held.age);
    };
    return std::max_element(held_.begin(), held_.end(),
                            [&](const auto& a, const auto& b) { return rank(a) < rank(b); })
        ->first;
  }
  if (!std::exchange(ranked_, true)) {
    for (const auto& [subscription, held] : held_) {
      if (held.items == 0) continue;
      by_items_.emplace(std::make_pair(held.items, held.age), subscription);
      by_bytes_.emplace(std::make_pair(held.bytes, held.age), subscription);
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
  taken.dropped += std::exchange(held.before_first.dropped, 0);
  taken.gap |= std::exchange(held.before_first.gap, false);
  if (held.items == 0 && !held.before_next.any()) held_.erase(taken.subscription);
  if (waiting_.empty()) ranked_ = false;  // and nobody is in it
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
  Notifications dropped;  // released outside the lock
  absl::MutexLock lock(&mutex_);
  asleep_ = why_ended_.ok();
  if (!asleep_) DropAll(dropped);  // nothing has it handed over again
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
  if (waiting_.empty()) ranked_ = false;
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
  DropAll(dropped);
  return TakeSleep();
}

void NotificationQueue::DropAll(Notifications& dropped) {
  dropped.swap(waiting_);
  held_.clear();
  ranked_ = false;
  by_items_.clear();
  by_bytes_.clear();
  bytes_ = 0;
}

absl::Status NotificationQueue::status() const {
  absl::MutexLock lock(&mutex_);
  return waiting_.empty() ? why_ended_ : absl::OkStatus();
}

}  // namespace runloop::internal

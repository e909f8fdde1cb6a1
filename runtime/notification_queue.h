#ifndef RUNLOOP_RUNTIME_NOTIFICATION_QUEUE_H_
#define RUNLOOP_RUNTIME_NOTIFICATION_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/bounds.h"
#include "runloop/runtime/publication.h"

namespace runloop {

class Session;

namespace internal {

struct QueuedNotification {
  uint64_t subscription = 0;  // the subscriber's own number
  std::shared_ptr<const Publication> publication;
  uint64_t sequence = 0;  // among those of the subscription, from 1
  uint64_t dropped = 0;   // of the subscription, before this one, and not told yet
  bool gap = false;       // some may have gone before it that nobody has counted
};

// What waits for one subscriber, of all its subscriptions, in the order of publication; of a topic
// that keeps the newest, one of each subscription, in the place of the first that waited.
//
// Bounded: whatever is too much makes room by dropping the oldest of the subscription that holds
// most of what there is too much of, items or bytes, so that a topic that floods costs others
// nothing; of several that hold as much, the oldest. What is larger than the bound is dropped
// itself. The next one of the subscription tells how many were.
//
// A Push costs next to nothing more where there are many subscriptions, also if it drops: whoever
// publishes pushes to all of them, and others wait meanwhile.
//
// Threads: any. Nothing of a subscriber's runs with the lock held.
class NotificationQueue {
 public:
  // `wake` is called after Sleep, when there is something to take or the queue has ended: by
  // whoever publishes, so it must not wait and must not run code of the subscriber's. `session`:
  // whose counts this adds to; null on the worker's side.
  NotificationQueue(NotificationBounds bounds, std::function<void()> wake,
                    std::shared_ptr<Session> session = nullptr);

  const std::shared_ptr<Session>& session() const { return session_; }

  // True: Wake is to be called.
  [[nodiscard]] bool Push(QueuedNotification notification, bool latest);
  void Wake() { wake_(); }

  // The oldest, unless it has more than `most_bytes`.
  std::optional<QueuedNotification> Take(size_t most_bytes = std::numeric_limits<size_t>::max());
  // Waits until there is something to take, the queue has ended, or `timeout` has passed.
  void Await(absl::Duration timeout);
  // The next Push wakes; false: there is something to take, or the queue has ended.
  bool Sleep();
  // The next Push wakes, whatever waits. After the end there is none, and what waits is dropped.
  void Rest();
  bool empty() const;

  // `subscription` has ended: what waits of it is gone, and not counted.
  void Forget(uint64_t subscription);
  // Takes nothing more; what waits can be taken.
  void Finish();
  // As Finish, and once that is taken, it has ended as `why` says, which is not OK. True: Wake is
  // to be called.
  [[nodiscard]] bool End(absl::Status why);
  // As End, and what waits is gone. After End that is all it does.
  [[nodiscard]] bool Drop(absl::Status why);
  // Why it has ended; OK until then, and while something waits.
  absl::Status status() const;

 private:
  struct Waiting {
    QueuedNotification notification;
    uint64_t number = 0;                  // counts up
    std::list<Waiting>::iterator next{};  // of the same subscription, if there is one
  };
  using Notifications = std::list<Waiting>;
  using Place = Notifications::iterator;
  // To be told.
  struct Missed {
    uint64_t dropped = 0;
    bool gap = false;
    bool any() const { return dropped > 0 || gap; }
  };
  // Of one subscription.
  struct Held {
    size_t items = 0;
    size_t bytes = 0;
    Place first{}, last{};  // if there are items
    uint64_t age = 0;       // the more, the longer the first has waited
    Missed before_first;    // the next that is taken tells
    Missed before_next;  // the next that comes tells: it was too large, and others wait before it
  };
  // Whose, by how much and how old.
  using Rank = std::map<std::pair<size_t, uint64_t>, uint64_t>;

  bool ended_or_has_any() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !waiting_.empty() || !why_ended_.ok();
  }
  bool Fits(size_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return waiting_.size() < bounds_.items && bytes_ + bytes <= bounds_.bytes;
  }
  void CountDropped(const QueuedNotification& dropped, Missed& missed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  QueuedNotification DropOne(bool by_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropAll(Notifications& dropped) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Who holds most, and of those that hold as much the oldest. Something waits.
  uint64_t Largest(bool by_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The oldest of a subscription, which has one.
  QueuedNotification RemoveFirst(uint64_t subscription) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Counts what `subscription` holds anew.
  void SetHeld(uint64_t subscription, Held& held, size_t items, size_t bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool TakeSleep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const NotificationBounds bounds_;
  const std::function<void()> wake_;
  const std::shared_ptr<Session> session_;

  mutable absl::Mutex mutex_;
  Notifications waiting_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, Held> held_ ABSL_GUARDED_BY(mutex_);  // by subscription
  // Those that hold something, once many of them had to be compared; until nothing waits.
  bool ranked_ ABSL_GUARDED_BY(mutex_) = false;
  Rank by_items_ ABSL_GUARDED_BY(mutex_), by_bytes_ ABSL_GUARDED_BY(mutex_);
  bool asleep_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status why_ended_ ABSL_GUARDED_BY(mutex_);  // OK until End
};

}  // namespace internal
}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_NOTIFICATION_QUEUE_H_

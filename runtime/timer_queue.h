#ifndef RUNLOOP_RUNTIME_TIMER_QUEUE_H_
#define RUNLOOP_RUNTIME_TIMER_QUEUE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/task.h"

namespace runloop::internal {

class Lifecycle;
class TaskQueue;

// Where tasks wait that are not due: in the order of their times, and of their coming where those
// are the same. Each joins the queue when it is due, and has then the place of one that is posted
// at that moment.
//
// One lock guards all; it is held while tasks join, and while the wake-up is set, never while a
// task runs or is destroyed.
//
// Wake-ups: there is one for all that wait. Those that are due within kSlack of the first share
// one, at the time of the last of them; so none runs before its time, and only one with another so
// close behind it runs later than it could. A loop that is awake lets each join when it is due.
//
// Threads: any. Ownership: as the queue, it has one reference to each task.
class TimerQueue {
 public:
  static constexpr absl::Duration kSlack = absl::Milliseconds(1);
  static constexpr int kMostAtOnce = 256;

  TimerQueue(Lifecycle& lifecycle, TaskQueue& queue) : lifecycle_(lifecycle), queue_(queue) {}

  // Takes the task, which is delayed, with a reference. False: closed, and it was not taken.
  bool Add(Task& task, absl::Time due) ABSL_LOCKS_EXCLUDED(mutex_);

  // Lets those join the queue that are due by `now`, at most kMostAtOnce, so that nobody waits long
  // for the lock; takes out those among them whose deadline has passed, with the references. True
  // if there were any.
  bool JoinDue(absl::Time now, std::vector<Task*>& expired) ABSL_LOCKS_EXCLUDED(mutex_);
  // Lets it join now, due or not. False: it is not here any more.
  bool Join(Task& task) ABSL_LOCKS_EXCLUDED(mutex_);

  // Takes it out, with the reference. False: it is not here any more.
  bool Take(Task& task) ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes out those of a session, or, without one, of all, that `wanted` says yes to, in their
  // order, with the references. `wanted` is called under the lock, and must not come back here.
  std::vector<Task*> TakeIf(const Session* only, absl::FunctionRef<bool(Task&)> wanted)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Nothing can be added any more; gives what is here, with the references.
  std::vector<Task*> Close() ABSL_LOCKS_EXCLUDED(mutex_);

  // When the first deadline is of what waits, or InfiniteFuture.
  absl::Time earliest_deadline() const ABSL_LOCKS_EXCLUDED(mutex_);

  // True if something is due by `now`. Cheap.
  bool IsDue(absl::Time now) const {
    const int64_t first = first_due_.load();
    return first != kNone && absl::ToUnixNanos(now) >= first;
  }
  // True if nothing waits and no wake-up is set. Cheap.
  bool rests() const { return rests_.load(); }

  // Calls `set` with the time of the next wake-up, InfiniteFuture if none is wanted, unless that
  // is what it was called with last; under the lock, so that what counts last is true. Not once
  // this is closed.
  void SetWake(absl::FunctionRef<void(absl::Time)> set) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using Key = std::pair<absl::Time, uint64_t>;  // when it is due, and its number
  using Tasks = std::map<Key, Task*>;

  // Takes it out of where it is.
  void Erase(Tasks::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // end(): it is not here.
  Tasks::iterator Find(Task& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void JoinNow(Tasks::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NoteFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

  Lifecycle& lifecycle_;
  TaskQueue& queue_;

  // When the first is due, in nanoseconds of the clock since the epoch of Unix.
  std::atomic<int64_t> first_due_{kNone};
  std::atomic<bool> rests_{true};

  mutable absl::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  Tasks tasks_ ABSL_GUARDED_BY(mutex_);
  // The same, by session, so that the end of one looks at no other's; null: this process's own.
  absl::flat_hash_map<const Session*, absl::flat_hash_map<Task*, Key>> keys_
      ABSL_GUARDED_BY(mutex_);
  std::multiset<absl::Time> deadlines_ ABSL_GUARDED_BY(mutex_);  // of those that have one
  absl::Time wake_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_TIMER_QUEUE_H_

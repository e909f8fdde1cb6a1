#ifndef RUNLOOP_RUNTIME_LIFECYCLE_H_
#define RUNLOOP_RUNTIME_LIFECYCLE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "runloop/runtime/bounds.h"
#include "runloop/runtime/closure_pool.h"
#include "runloop/runtime/ledger.h"
#include "runloop/runtime/task.h"

namespace runloop::internal {

// The one state machine of an invocation (D3): every change of every task's state is made here, and
// is counted here: in the ledger, with its session and its operation, and against the bounds (D4).
//
//   Admit         -> queued, or delayed, or refused
//   Due           delayed -> queued
//   EndUnstarted  delayed or queued -> ended: cancelled, expired, superseded or abandoned; it never
//                 runs
//   Start         queued -> running
//   Defer         running -> deferred
//   Finish        running or deferred -> ended: succeeded or failed
//
// Of several threads that try to end an invocation exactly one succeeds; that one delivers the
// outcome, after it was counted. Any thread.
class Lifecycle {
 public:
  // `largest_holder` says who has most unfinished work, of all sessions or of one account's, for
  // the text of refusals.
  Lifecycle(const WorkBounds& bounds,
            std::function<std::string(const Account*, const Session*)> largest_holder);

  // Takes it in, unless a bound stands in the way: RESOURCE_EXHAUSTED (QUEUE_FULL) says which, who
  // holds most of the room, and when to try again; RESOURCE_EXHAUSTED (MESSAGE_TOO_LARGE) says
  // which it alone is larger than, so that it can never fit. With `instead_of`, a task that it
  // takes the place of counts as gone. `as` is kQueued or kDelayed.
  absl::Status Admit(Task& task, const Task* instead_of = nullptr,
                     Task::State as = Task::State::kQueued);
  // The same without looking at bounds.
  void AdmitUnbounded(Task& task, Task::State as = Task::State::kQueued);

  // As Admit, of all of them or of none; they are of one session. What is refused is counted as so
  // many.
  absl::Status CheckBatch(const Session& session, const Bound& batch);
  absl::Status AdmitBatch(absl::Span<Task* const> tasks);

  // What is left of each bound.
  struct Room {
    Bound all, user, session;
  };
  // Tasks of one session that are taken in together: looked at one by one, counted at once.
  struct Group {
    const Session* session = nullptr;
    Room room;  // when the group began: there may be more by now
    int64_t items = 0, bytes = 0;
  };
  Group BeginGroup(const Session& session) const;
  // Whether it fits beside the group. Cheap.
  bool HasRoom(const Task& task, const Group& group) const;
  // As Admit, but the task is counted only with its group.
  absl::Status Add(Task& task, Group& group);
  void AdmitGroup(const Group& group, bool on_runtime_thread);

  // Takes Admit back, for one that the queue turned out not to take.
  void Unadmit(Task& task);
  // Counts one that was refused before Admit.
  void Refuse() { ledger_.Refuse(); }
  // Why a closure that nobody waits for is refused, if it is for want of room; counts it.
  absl::Status RefuseClosure();

  // False: it has ended meanwhile.
  bool Due(Task& task);
  bool EndUnstarted(Task& task, OutcomeKind kind);
  // The runtime thread, as Defer.
  bool Start(Task& task, absl::Time now);
  // False: it has ended meanwhile.
  bool Defer(Task& task);
  // False: it had ended. `was_deferred` may be null.
  bool Finish(Task& task, bool succeeded, bool on_runtime_thread, bool* was_deferred = nullptr);

  // A caller stopped waiting for one that had started.
  void CountGivenUp() { ledger_.GiveUp(); }

  // A closure that ended unstarted stays in the queue until its turn, since it belongs to the
  // runtime thread: it takes room until then.
  void CountStale(int64_t change) { stale_.fetch_add(change); }

  // What the sessions of a user, or of a role, have together; shared by them.
  std::shared_ptr<Account> AccountOf(const std::string& holder);

  // The closures that nobody waits for: they are counted there, and only run or are abandoned.
  ClosurePool& closures() { return *closures_; }

  // Of tasks and closures.
  Ledger::Counts counts() const;
  // Neither queued nor running nor deferred.
  bool idle() const;
  const WorkBounds& bounds() const { return bounds_; }
  // Of the runtime and of each user or role that has sessions.
  std::vector<BoundStatus> GetBounds() const;

  // How long tasks take, for hints. The runtime thread.
  void NoteRunTime(absl::Duration time);

 private:
  // How refusals name a bound: to programs, and to people.
  struct Names {
    std::string bound;
    std::string in_words;
  };
  static Names NamesOf(const Account& account, const Session* session);
  Room GetRoom(const Session* session) const;
  static bool HasRoom(const Room& room, int64_t items, int64_t bytes);
  // Who asks for room, for how much more, after others of a group, and of that for what alone.
  struct Asking {
    const Session* session = nullptr;
    Bound more, alone;
    bool batch = false;

    const char* what() const { return batch ? "batch" : "request"; }
  };
  static Asking AskFor(const Task& task, const Bound& more);
  // Why there is no room.
  absl::Status WhyNoRoom(const Asking& asking);
  absl::Status TooLarge(const Account& account, const Asking& asking);
  absl::Status Full(const Account& account, int64_t items, const Asking& asking);
  // About how much there is, to be held against the bound of all.
  int64_t unfinished() const {
    return ledger_.unfinished() + stale_.load() + closures_->unfinished();
  }
  void Hold(const Session* session, int64_t items, int64_t bytes, bool on_runtime_thread);
  void LetGo(Task& task, bool on_runtime_thread);

  const WorkBounds bounds_;
  const std::function<std::string(const Account*, const Session*)> largest_holder_;
  Ledger ledger_;
  Account total_;  // bytes; its items are the ledger's
  std::atomic<int64_t> stale_{0};
  const std::shared_ptr<ClosurePool> closures_;
  alignas(64) std::atomic<int64_t> mean_run_nanos_{
      0};  // written all the time, apart from what posts read

  alignas(64) mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, std::weak_ptr<Account>> accounts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_LIFECYCLE_H_

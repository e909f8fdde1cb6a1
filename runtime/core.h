#ifndef RUNLOOP_RUNTIME_CORE_H_
#define RUNLOOP_RUNTIME_CORE_H_

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "runloop/runtime/adaptive_spin.h"
#include "runloop/runtime/buffer_registry.h"
#include "runloop/runtime/current_task.h"
#include "runloop/runtime/deferred_tasks.h"
#include "runloop/runtime/intake_source.h"
#include "runloop/runtime/lifecycle.h"
#include "runloop/runtime/notification_hub.h"
#include "runloop/runtime/operation_task.h"
#include "runloop/runtime/runtime.h"
#include "runloop/runtime/slow_log.h"
#include "runloop/runtime/task_queue.h"
#include "runloop/runtime/timer_queue.h"
#include "runloop/runtime/timer_task.h"
#include "runloop/runtime/wait_chain.h"

namespace runloop::internal {

// What a runtime is made of, shared by the Runtime that owns it, the contexts that post to it and
// the transports that dispatch to it; it outlives the first for the sake of the others, stopped.
// Transports (daemon/, in-process contexts) use the first part of this class; nothing else does.
class RuntimeCore : public std::enable_shared_from_this<RuntimeCore> {
 public:
  explicit RuntimeCore(RuntimeOptions options);
  ~RuntimeCore();

  // ---- for transports; any thread ----

  // Opens a session, which counts as open until it has ended and its objects are closed. `info.id`
  // and `info.start_time` may be empty.
  std::shared_ptr<Session> OpenSession(Session::Info info);
  // The same for a peer, with no higher priority than its role may have. RESOURCE_EXHAUSTED
  // (QUEUE_FULL): its uid or role has as many as it may.
  absl::StatusOr<std::shared_ptr<Session>> OpenPeerSession(Session::Info info);

  using Call = OperationCall;
  // Queues one invocation, when it is due; never waits. An error means that it was refused, and
  // `sink` hears nothing of it. Else `sink` gets exactly one outcome, and the task may be given to
  // Cancel and GiveUp. UNAVAILABLE (DRAINING, RUNTIME_STOPPED), RESOURCE_EXHAUSTED (QUEUE_FULL;
  // MESSAGE_TOO_LARGE if it can never fit), ABORTED (SESSION_ENDED), FAILED_PRECONDITION
  // (DEADLOCK).
  absl::StatusOr<std::shared_ptr<OperationTask>> Dispatch(Call call);
  // Queues invocations of one session that run in a row; none of `calls` has `chain`,
  // `coalesce_key` or `delay`, and there is at least one. All are taken in or none, and an error is
  // that of each. Those behind one that did not succeed end as cancelled (BATCH_STOPPED) if it is
  // to `stop_at_failure`.
  absl::StatusOr<std::vector<std::shared_ptr<OperationTask>>> DispatchBatch(std::vector<Call> calls,
                                                                            bool stop_at_failure);
  // Why DispatchBatch would refuse them, to be asked before their requests are parsed: looks at
  // their `request_bytes`. What is refused is counted.
  absl::Status CheckBatch(absl::Span<const Call> calls);
  // Dispatches of one session, one after the other: each as by Dispatch, but what was admitted is
  // counted and queued together, by Flush or earlier; and it is handed over at `now`, for all of
  // them. One thread.
  class Group {
   public:
    Group(RuntimeCore& core, std::shared_ptr<Session> session, absl::Time now);
    ~Group() { Flush(); }
    Group(const Group&) = delete;
    Group& operator=(const Group&) = delete;

    // `call` has neither `chain` nor `coalesce_key` nor `delay`; its session is the group's.
    absl::StatusOr<std::shared_ptr<OperationTask>> Dispatch(Call call);
    void Flush();
    absl::Time now() const { return now_; }

   private:
    RuntimeCore& core_;
    const std::shared_ptr<Session> session_;
    const absl::Time now_;
    Lifecycle::Group counts_;
    OperationTask* newest_ = nullptr;
    OperationTask* oldest_ = nullptr;
  };

  // Runs it in place, on the runtime thread, which the caller has checked; also while draining,
  // since what drains may need it. The task may be deferred then. UNAVAILABLE (RUNTIME_STOPPED).
  absl::StatusOr<std::shared_ptr<OperationTask>> DispatchInPlace(Call call);
  // True if the task had not started: it never will, and its outcome (CANCELLED, or that of
  // `kind`) was given on this thread.
  bool Cancel(OperationTask& task, OutcomeKind kind = OutcomeKind::kCancelled);

  enum class GivenUp {
    kNeverRan,      // its outcome was given on this thread
    kStillRunning,  // running or deferred: what it makes is released when it ends
    kEnded,         // its outcome was given, or is being given on another thread
  };
  // Nobody will look at its result, unless it has ended.
  GivenUp GiveUp(OperationTask& task, OutcomeKind kind);
  // Nor at the result of one that has: the objects that it made are released. By its number.
  void GiveUpEnded(Session& session, uint64_t number);

  // `chain` waits for `task` by now, though its dispatch did not say so. Ends it with DEADLOCK if
  // it would wait for itself.
  void AlsoWaits(OperationTask& task, Chain chain);

  // UNIMPLEMENTED (UNKNOWN_OPERATION) with a hint if there is none of this name.
  absl::StatusOr<const Operation*> FindOperation(std::string_view name) const;
  const OperationRegistry& operations() const { return operations_; }
  const WorkBounds& bounds() const { return lifecycle_.bounds(); }
  size_t max_handles() const { return max_handles_; }
  BufferRegistry& buffers() { return *buffers_; }
  const BufferRegistry& buffers() const { return *buffers_; }
  NotificationHub& hub() { return hub_; }
  Clock& clock() const { return *clock_; }
  // Begins to take in what comes by `source`, whose lifetime is the runtime's from here on.
  // ALREADY_EXISTS: there is one. UNIMPLEMENTED: the loop cannot be woken by one.
  absl::Status AddIntake(std::shared_ptr<IntakeSource> source);
  // Ends that. Another one may be added then.
  void RemoveIntake(IntakeSource& source);
  // The source has something, for which it has rung nobody.
  void Poke() { WakeLoop(); }
  const std::string& id() const { return id_; }
  absl::Time start_time() const { return start_time_; }
  void Log(LogSeverity severity, std::string_view line) const { log_(severity, line); }
  Runtime::Snapshot GetSnapshot() const;
  // Only what the runtime thread does and whether it drains: does not wait for the queue.
  Runtime::Snapshot GetThreadSnapshot() const;
  bool OnRuntimeThread() const;
  LocalRuntimeContext context() { return LocalRuntimeContext(shared_from_this()); }

  // ---- for closures; any thread ----

  // Posts a task, whose reference the queue takes; an error means that it was refused, and Release
  // was not called. A task with `chains` is refused with DEADLOCK if this runtime is in one.
  absl::Status Post(Task* task);
  // A node for a closure that nobody waits for; null: refused, for WhyClosureRefused to say and
  // count.
  ClosureNode* TakeClosureNode();
  absl::Status WhyClosureRefused();
  // Posts it; an error means that it was refused, and the closure is destroyed.
  absl::Status PostClosure(ClosureNode* node);
  // Hands over the closure of a timer: it is first due after `delay`, then each `period`, which is
  // positive; InfiniteDuration: once. An error means that it was refused, and is destroyed.
  absl::StatusOr<std::shared_ptr<TimerTask>> StartTimer(TimerTask::Closure closure,
                                                        absl::Duration delay, absl::Duration period,
                                                        Priority priority);
  // As Timer::Cancel.
  bool CancelTimer(TimerTask& timer);
  // Before and after running a closure in place on the runtime thread: the reason if the runtime is
  // stopped.
  absl::Status EnterInPlace(Task& task);
  void LeaveInPlace(Task& task, bool succeeded);
  // Ends a closure whose caller has waited long enough. True: it will never run; it stays queued
  // until its turn, since what it captured belongs to the runtime thread.
  bool ExpireClosure(Task& task);
  // As AlsoWaits, for a closure that its caller keeps alive.
  void AlsoWaitsForClosure(Task& task, Chain chain);

  // ---- for what runs on the runtime thread ----

  // The runtime of this thread, or null.
  static RuntimeCore* OfThisThread();
  // The operation whose handler runs, the innermost of them; null: none does. The runtime thread.
  const OperationTask* handled() const { return handled_; }
  const OperationTask* ExchangeHandled(const OperationTask* task) {
    return std::exchange(handled_, task);
  }
  // The runtime thread, as the next two: what to put into a dispatch that it blocks on.
  Chain WaitingChain() const;
  // False: it waits already, further out on its stack.
  bool BeginWait(std::string for_what, std::shared_ptr<Waits::Forward> forward);
  void EndWait();

  // ---- for TimerTask; the runtime thread ----

  // Lets it wait for its next run, whatever the bounds; false if the runtime has stopped.
  bool AddTimerAgain(TimerTask& timer);

  // ---- for OperationTask, Session and its objects ----

  Lifecycle& lifecycle() { return lifecycle_; }
  DeferredTasks& deferred() { return deferred_; }
  // After a task was deferred, and after one that was has its outcome.
  void AfterDeferral(const OperationTask& task);
  void AfterDeferred();
  // A session has ended: ends its unfinished work, and has its objects closed.
  void SessionEnded(std::shared_ptr<Session> session);
  // Runs `closure` on the runtime thread, whatever the bounds; if the runtime stops first, on the
  // thread that stops it; not at all if it has stopped. Any thread.
  void RunCleanup(absl::AnyInvocable<void() &&> closure);
  // The runtime thread.
  Handle NewHandle() { return ++last_handle_; }
  absl::Duration close_timeout() const { return close_timeout_; }
  // An object should have closed by then.
  void WatchClosing(absl::Time deadline);

  // ---- for Runtime ----

  // Binds the runtime to this thread and gives the loop its work.
  absl::Status Bind();
  absl::Status RunLoopUntilQuit();
  void RequestQuit();
  void BeginDrain();
  Runtime::DrainResult Drain(absl::Duration timeout);
  // Ends everything: closes the queue, ends sessions, abandons what is left. Returns how many
  // objects were destroyed without having been closed. The runtime thread. Idempotent.
  size_t Shutdown();
  bool stopped() const { return stopped_.load(std::memory_order_acquire); }
  RunLoop& loop() const { return *loop_; }

 private:
  static std::string_view NameOf(const CurrentTask::Look& look);
  // What `look` saw running for, unless it has gone meanwhile.
  std::shared_ptr<Session> SessionOf(const CurrentTask::Look& look) const;
  // Who handed over what runs, as text: `look` saw it, for `session`, unless that is null.
  std::string CallSiteOf(const CurrentTask::Look& look, const Session* session) const;
  // Who was found to have most unfinished work.
  struct Largest {
    absl::Time looked = absl::InfinitePast();
    std::weak_ptr<Session> session;
  };
  // What a drain waits for.
  enum class DrainPhase { kNone, kWork, kSessions };

  // The loop's work: runs a slice. The runtime thread.
  bool RunSlice(const DrainBudget& budget);
  // Lets the intake source have its turn, if it is time. True if it had; moves `now` on then. The
  // runtime thread.
  bool ServeIntake(absl::Time& now);
  // The two halves of that: the second is not needed where the thread has nothing to do, and looks
  // at the clock when it has waited.
  void BeginIntake(IntakeSource& intake, absl::Time now);
  void EndIntake(absl::Time& now);
  // Moves `now` on.
  void RunTask(Task& task, absl::Time& now);
  // Tells the slow-operation log of a task that has run, if it was slow; of `unlooked` closures
  // that ran between two looks at the clock, the last of them handed over at `call_site`. The
  // runtime thread, which writes no log itself.
  void NoteIfSlow(const Task& task, absl::Time began, absl::Time now) {
    if (slow_log_.IsSlowRun(now - began) ||
        (task.operation != nullptr && slow_log_.IsSlowWait(began - task.posted_at))) [[unlikely]] {
      NoteSlow(task, began, now);
    }
  }
  static InvocationStatus Describe(const Task& task);
  void NoteSlow(const Task& task, absl::Time began, absl::Time now);
  void NoteSlowClosures(CallSite call_site, int unlooked, absl::Duration took, absl::Time now);
  void NoteSlow(absl::Duration execution, absl::Time now,
                absl::FunctionRef<InvocationStatus()> describe);
  // Runs closures_ until `until`, at most so many, or until there are none; returns how many. Moves
  // `now` on. So many tasks have run in this slice before.
  int RunClosures(absl::Time& now, absl::Time until, int before_in_slice, int most);
  // Ends all closures unstarted. The runtime thread.
  void AbandonClosures();
  // Ends what is in the queue and `wanted`, with the queue's reference. Any thread, but with
  // closures the runtime thread.
  void EndQueued(OutcomeKind kind, const Lane* only, absl::FunctionRef<bool(Task&)> wanted);
  // The same of what is delayed, of a session or of all.
  void EndDelayed(OutcomeKind kind, const Session* only, absl::FunctionRef<bool(Task&)> wanted);
  void TellNeverRan(const std::vector<Task*>& ended, OutcomeKind kind);
  // Ends what is in the queue of a session that has ended.
  void AbandonQueued(const std::shared_ptr<Session>& session);
  // Tells of a task that was ended unstarted, taken out of the queue or not.
  void AfterEndUnstarted(OperationTask& task, const absl::Status& why);
  static absl::Status StoppedError();
  static absl::Status WhyNeverRan(const Task& task, OutcomeKind kind);
  // Why nothing of the session is taken in now, if so, but for bounds.
  absl::Status WhyClosed(const Session& session) const;
  // The same of a batch; or INVALID_ARGUMENT (INVALID_REQUEST): it has more than it may, or one has
  // what those of a batch have not. What is refused is counted.
  absl::Status RefuseBatch(absl::Span<const Call> calls);
  // Queues without looking at a bound; false if the queue is closed.
  bool Enqueue(Task* task);
  // Puts it in the place of `old`, which it supersedes if that has not started; false if the queue
  // is closed.
  bool EnqueueInstead(const std::shared_ptr<OperationTask>& old, Task* task);
  // Ends `old`, if it has not started, for the sake of a newer one.
  void Supersede(OperationTask& old);
  // Lets what is due join the queue, or end, if its deadline has passed; true if there was any.
  bool JoinDue(absl::Time now);
  // Takes a task that is delayed; it joins the queue when it is due. False: the runtime stops.
  bool AddDelayed(Task& task, absl::Time due);
  // Sets the loop's timer, or has the service thread be its timer.
  void SetTimerWake();
  // The loop is going to sleep: sets its timer. False: something is due.
  bool SleepUntilDue();
  // The service thread, in place of the loop's timer or of a thread that is stuck. True if anything
  // was due.
  bool JoinDueInstead(absl::Time now);
  // Something that is delayed has this deadline, which the service thread sees to.
  void WatchDelayed(absl::Time deadline);
  void WakeLoop();
  // After a dispatch that others wait for.
  void PassOn(const Chain& chain);
  // True if a wait of this runtime that is in the chain has not ended.
  bool ClosesCycle(const Chain& chain) const;
  // Of the sessions that are charged to an account, or of all; as `asks` may know it. Looked up at
  // most once in some milliseconds, since a flood of refusals asks for it.
  std::string LargestHolder(const Account* among, const Session* asks) const;

  // Null in process.
  std::shared_ptr<Account> UserOf(const Session::Info& info);
  std::shared_ptr<Session> AddSession(Session::Info info, std::shared_ptr<Account> user)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(sessions_mutex_);

  // Closes what an ended session holds. The runtime thread.
  void CloseSession(const std::shared_ptr<Session>& session);
  // Ends the deferred tasks of a session, or all.
  void AbortDeferred(const Session* session, const absl::Status& why);
  void DestroyOverdue();
  void AfterInPlace();
  // Runs the loop until `phase` is over or the deadline has come; true if it is over.
  bool RunUntil(DrainPhase phase, absl::Time deadline);
  bool Reached(DrainPhase phase) const;
  // Makes the loop return if a drain waits for just this.
  void QuitIfDrained();

  // The service thread. What a look finds is dealt with after it, without its lock.
  struct Noticed {
    bool expired = false;           // queued tasks may have
    bool deferred_expired = false;  // deferred tasks have
    bool delayed_expired = false;   // delayed ones may have
    bool closing_overdue = false;   // objects should have closed
    bool due = false;               // what was delayed may be
    bool stuck = false;             // the runtime thread does no intake
    bool slow = false;              // the slow-operation log has lines
    std::string line;

    bool any() const {
      return expired || deferred_expired || delayed_expired || closing_overdue || due || stuck ||
             slow || !line.empty();
    }
  };
  void Serve();
  // Looks at the queue and the running task; returns when to look again, InfiniteFuture if nothing
  // is to be watched.
  absl::Time Tick(absl::Time now, Noticed& noticed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_mutex_);
  // As Tick, for what is queued and running.
  absl::Time TickWork(absl::Time now, Noticed& noticed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_mutex_);
  void LookAtCurrent(absl::Time now, Noticed& noticed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_mutex_);
  // The same for a thread that is busy with something that is no task.
  void LookAtIntake(absl::Time now, Noticed& noticed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_mutex_);
  // The service thread, in place of the runtime thread.
  void ServeIntakeInstead(absl::Time now);
  std::string StallNotice(const CurrentTask::Look& look, absl::Duration age) const;
  void LogSlow(absl::Time now);
  // Makes the service thread look, if it does not already.
  void Watch();
  void ExpireDeferred(absl::Time now);
  // What to tell people about a loop that has not started; empty if there is nothing to tell.
  std::string NotStartedNotice(absl::Time now) const;

  // Constant after construction.
  const OperationRegistry operations_;
  const DrainBudget budget_;
  const absl::Duration stall_threshold_;
  const absl::Duration close_timeout_;
  const size_t max_handles_;
  const Priority role_priority_;
  Clock* const clock_;
  const LogSink log_;
  const std::string id_;
  const absl::Time start_time_;
  const std::unique_ptr<RunLoop> loop_;
  const std::shared_ptr<BufferRegistry> buffers_;  // the buffers of this process refer to it

  NotificationHub hub_;

  Lifecycle lifecycle_;
  mutable TaskQueue queue_;  // a look does intake
  TimerQueue timers_{lifecycle_, queue_};
  DeferredTasks deferred_;
  Waits waits_;
  SlowLog slow_log_;

  bool loop_keeps_time_ = false;  // it wakes itself; set by Bind, constant then
  std::atomic<std::thread::id> thread_id_{};
  LoopSleep sleep_;                   // whether the loop waits for a Wake
  std::atomic<bool> started_{false};  // the loop has called RunSlice
  std::atomic<bool> stopped_{false};
  std::atomic<bool> draining_{false};  // operations are refused
  std::atomic<DrainPhase> drain_phase_{DrainPhase::kNone};
  std::atomic<IntakeSource*> intake_{nullptr};
  std::atomic<uint64_t> intake_turns_{0};  // that the runtime thread has given it
  std::atomic<bool> watched_{false};       // the service thread is looking
  std::atomic<absl::Time> first_post_{absl::InfiniteFuture()};  // to a loop that had not started

  // Since when closures that nobody waits for have been running, nearly: in nanoseconds of the
  // clock since the epoch of Unix; kNone while none is. For status and the service thread.
  //
  // It begins the lines that the runtime thread alone writes, all the time: what posts read lies
  // elsewhere.
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::min();
  alignas(64) std::atomic<int64_t> closures_since_{kNone};
  std::atomic<CallSite> closure_call_site_{};  // of the one that runs, while some do

  // The runtime thread only.
  ClosureNode* closures_ = nullptr;  // taken out of the queue, and next to run
  int look_after_ = 1;               // closures: how many between two looks at the clock
  AdaptiveSpin spin_;
  absl::Time serve_intake_at_ = absl::InfinitePast();
  bool collected_nested_ = false;  // by a loop inside a task, and not served since
  int depth_ = 0;                  // tasks on the stack: above zero nothing from the queue starts
  const Task* running_ = nullptr;  // the one of the queue
  const OperationTask* handled_ = nullptr;
  Handle last_handle_ = 0;

  CurrentTask current_;  // written by it, read by others

  alignas(64) mutable absl::Mutex sessions_mutex_;
  std::vector<std::shared_ptr<Session>> sessions_ ABSL_GUARDED_BY(sessions_mutex_);
  uint64_t next_session_ ABSL_GUARDED_BY(sessions_mutex_) = 1;
  // By the account's holder; empty: of all.
  mutable absl::flat_hash_map<std::string, Largest> largest_ ABSL_GUARDED_BY(sessions_mutex_);

  // Those that were removed, too: the runtime thread may just be in one.
  absl::Mutex intakes_mutex_;
  std::vector<std::shared_ptr<IntakeSource>> intakes_ ABSL_GUARDED_BY(intakes_mutex_);

  absl::Mutex service_mutex_;
  absl::CondVar service_changed_;
  bool service_stop_ ABSL_GUARDED_BY(service_mutex_) = false;
  int idle_ticks_ ABSL_GUARDED_BY(service_mutex_) = 0;
  absl::Time next_intake_ ABSL_GUARDED_BY(service_mutex_) = absl::InfinitePast();
  // When the runtime thread was seen to give the intake source a turn, and which.
  absl::Time turn_seen_ ABSL_GUARDED_BY(service_mutex_) = absl::InfinitePast();
  uint64_t last_turn_ ABSL_GUARDED_BY(service_mutex_) = 0;
  absl::Time next_expiry_scan_ ABSL_GUARDED_BY(service_mutex_) = absl::InfinitePast();
  absl::Time drain_deadline_ ABSL_GUARDED_BY(service_mutex_) = absl::InfiniteFuture();
  // No deferred or delayed task has an earlier deadline, and no object that closes; those that have
  // ended may have had it.
  absl::Time deferred_deadline_ ABSL_GUARDED_BY(service_mutex_) = absl::InfiniteFuture();
  absl::Time delayed_deadline_ ABSL_GUARDED_BY(service_mutex_) = absl::InfiniteFuture();
  absl::Time closing_deadline_ ABSL_GUARDED_BY(service_mutex_) = absl::InfiniteFuture();
  // When to let join what is due, in place of a loop that keeps no time.
  absl::Time timer_wake_ ABSL_GUARDED_BY(service_mutex_) = absl::InfiniteFuture();
  absl::Time slow_due_ ABSL_GUARDED_BY(service_mutex_) = absl::InfiniteFuture();  // lines to log
  bool not_started_logged_ ABSL_GUARDED_BY(service_mutex_) = false;
  uint64_t stalled_task_ ABSL_GUARDED_BY(service_mutex_) = 0;     // logged; its version
  uint64_t stalled_closure_ ABSL_GUARDED_BY(service_mutex_) = 0;  // logged; by how many had started
  std::thread service_;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_CORE_H_

#ifndef RUNLOOP_RUNTIME_CORE_H_
#define RUNLOOP_RUNTIME_CORE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/operation_task.h"
#include "runloop/runtime/runtime.h"
#include "runloop/runtime/task_queue.h"

namespace runloop::internal {

// What a runtime is made of, shared by the Runtime that owns it, the contexts that post to it and
// the transports that dispatch to it; it outlives the first for the sake of the others, stopped.
// Transports (daemon/, in-process contexts) use the first part of this class; nothing else does.
class RuntimeCore : public std::enable_shared_from_this<RuntimeCore> {
 public:
  explicit RuntimeCore(RuntimeOptions options);
  ~RuntimeCore();

  // ---- for transports; any thread ----

  // Opens a session, which counts as open until its End. `info.id` and `info.start_time` may be
  // empty.
  std::shared_ptr<Session> OpenSession(Session::Info info);

  struct Call {
    const Operation* operation = nullptr;  // of operations()
    std::unique_ptr<google::protobuf::Message>
        request;  // of the operation's generated request type
    std::shared_ptr<Session> session;
    absl::Time deadline = absl::InfiniteFuture();  // by clock(); not started by then, it never runs
    OutcomeCallback done;
  };
  // Queues one invocation; never waits. An error means that it was refused: `done` is destroyed
  // uncalled. Else `done` gets exactly one outcome, and the task may be given to Cancel.
  // UNAVAILABLE (DRAINING, RUNTIME_STOPPED), RESOURCE_EXHAUSTED (QUEUE_FULL).
  absl::StatusOr<std::shared_ptr<OperationTask>> Dispatch(Call call);
  // Runs it in place, on the runtime thread, which the caller has checked; also while draining,
  // since what drains may need it. UNAVAILABLE (RUNTIME_STOPPED).
  absl::Status DispatchInPlace(Call call);
  // True if the task had not started: it never will, and its outcome (CANCELLED, or that of
  // `kind`) was given on this thread.
  bool Cancel(OperationTask& task, OutcomeKind kind = OutcomeKind::kCancelled);

  // UNIMPLEMENTED (UNKNOWN_OPERATION) with a hint if there is none of this name.
  absl::StatusOr<const Operation*> FindOperation(std::string_view name) const;
  const OperationRegistry& operations() const { return operations_; }
  Clock& clock() const { return *clock_; }
  const std::string& id() const { return id_; }
  absl::Time start_time() const { return start_time_; }
  void Log(LogSeverity severity, std::string_view line) const { log_(severity, line); }
  Runtime::Snapshot GetSnapshot() const;
  bool OnRuntimeThread() const;
  LocalRuntimeContext context() { return LocalRuntimeContext(shared_from_this()); }

  // ---- for closures; any thread ----

  // Posts a task, whose reference the queue takes; an error means that it was refused, and Release
  // was not called.
  absl::Status Post(Task* task);
  // Before running something in place on the runtime thread: the reason if the runtime is stopped.
  absl::Status EnterInPlace();
  void LeaveInPlace(bool failed);
  // Ends one that is still queued, as kExpired or kCancelled. True if that was in time.
  bool EndQueued(Task& task, OutcomeKind kind);

  // ---- for OperationTask ----

  // Keeps a task whose handler returned without an outcome, so that the end of its session or of
  // the runtime finds it.
  void AddDeferred(std::shared_ptr<OperationTask> task);
  // After its outcome was delivered: a drain waits for it until then.
  void RemoveDeferred(const OperationTask& task);
  // Counts the end of one that started.
  void CountEnd(const OperationTask& task, bool succeeded, bool was_deferred) {
    CountEnd(task.operation, task.session.get(), succeeded, was_deferred);
  }

  // ---- for Runtime and Session ----

  // Binds the runtime to this thread and gives the loop its work.
  absl::Status Bind();
  absl::Status RunLoopUntilQuit();
  void RequestQuit();
  void BeginDrain();
  Runtime::DrainResult Drain(absl::Duration timeout);
  // Ends everything: closes the queue, ends sessions, abandons what is left. The runtime thread.
  // Idempotent.
  void Shutdown();
  bool stopped() const { return stopped_.load(std::memory_order_acquire); }
  RunLoop& loop() const { return *loop_; }
  // A session has ended: close it on the runtime thread.
  void SessionEnded(std::shared_ptr<Session> session);
  // Runs what came too late for that.
  void RunAfterSessionEnd(absl::AnyInvocable<void() &&> closure);

 private:
  // What runs now, for status and the service thread.
  struct Current {
    bool active = false;
    const Operation* operation = nullptr;  // null: a closure
    std::shared_ptr<Session> session;
    absl::Time since;
    bool stall_logged = false;

    std::string_view name() const {
      return operation ? std::string_view(operation->name()) : "(closure)";
    }
  };

  // The loop's work: runs a slice. The runtime thread.
  bool RunSlice(const DrainBudget& budget);
  void RunTask(Task& task, absl::Time now);
  void CountStart(Task& task, absl::Time now);
  void CountEnd(const Operation* operation, Session* session, bool succeeded, bool was_deferred);
  // Queues without looking at the bound or at `stopped`; false if the queue is closed.
  bool Enqueue(Task* task);
  // Runs a session's closures and ends what it left deferred. The runtime thread.
  void CloseSession(Session& session);
  // Ends the deferred tasks of a session, or all.
  void AbortDeferred(const Session* session, const absl::Status& why);
  void AfterInPlace();
  // After a slice or a completion: makes the loop return if a drain waits for just this.
  void QuitIfDrained();
  // True if nothing is queued, running or deferred.
  bool Drained() const;

  // The service thread. What a look finds is dealt with after it, without its lock.
  struct Noticed {
    std::vector<std::shared_ptr<OperationTask>> expired;
    std::string line;
  };
  void Serve();
  // Looks at the queue and the running task; returns when to look again, InfiniteFuture if nothing
  // is to be watched.
  absl::Time Tick(absl::Time now, Noticed& noticed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(service_mutex_);
  void LookAtCurrent(absl::Time now, Noticed& noticed);
  // Makes the service thread look, if it does not already.
  void Watch();
  void ExpireQueued(absl::Time now, Noticed& noticed);
  // What to tell people about a loop that has not started; empty if there is nothing to tell.
  std::string NotStartedNotice(absl::Time now) const;

  // Constant after construction.
  const OperationRegistry operations_;
  const int64_t max_queued_;
  const DrainBudget budget_;
  const absl::Duration stall_threshold_;
  Clock* const clock_;
  const LogSink log_;
  const std::string id_;
  const absl::Time start_time_;
  const std::unique_ptr<RunLoop> loop_;

  mutable TaskQueue queue_;  // a look does intake
  Ledger ledger_;

  std::atomic<std::thread::id> thread_id_{};
  std::atomic<bool> asleep_{true};    // the loop waits for a Wake; a post that finds it true wakes
  std::atomic<bool> started_{false};  // the loop has called RunSlice
  std::atomic<bool> stopped_{false};
  std::atomic<bool> draining_{false};                           // operations are refused
  std::atomic<bool> quit_if_drained_{false};                    // Drain waits
  std::atomic<bool> watched_{false};                            // the service thread is looking
  std::atomic<absl::Time> first_post_{absl::InfiniteFuture()};  // to a loop that had not started

  // The runtime thread only.
  int depth_ = 0;  // tasks on the stack: above zero nothing from the queue starts

  mutable absl::Mutex current_mutex_;
  Current current_ ABSL_GUARDED_BY(current_mutex_);

  mutable absl::Mutex sessions_mutex_;
  std::vector<std::shared_ptr<Session>> sessions_ ABSL_GUARDED_BY(sessions_mutex_);
  uint64_t next_session_ ABSL_GUARDED_BY(sessions_mutex_) = 1;

  mutable absl::Mutex deferred_mutex_;
  absl::flat_hash_map<const OperationTask*, std::shared_ptr<OperationTask>> deferred_
      ABSL_GUARDED_BY(deferred_mutex_);

  absl::Mutex service_mutex_;
  absl::CondVar service_changed_;
  bool service_stop_ ABSL_GUARDED_BY(service_mutex_) = false;
  int idle_ticks_ ABSL_GUARDED_BY(service_mutex_) = 0;
  absl::Time next_expiry_scan_ ABSL_GUARDED_BY(service_mutex_) = absl::InfinitePast();
  absl::Time drain_deadline_ ABSL_GUARDED_BY(service_mutex_) = absl::InfiniteFuture();
  bool not_started_logged_ ABSL_GUARDED_BY(service_mutex_) = false;
  std::thread service_;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_CORE_H_

#ifndef RUNLOOP_RUNTIME_RUNTIME_H_
#define RUNLOOP_RUNTIME_RUNTIME_H_

#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/bounds.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/ledger.h"
#include "runloop/runtime/local_context.h"
#include "runloop/runtime/log.h"
#include "runloop/runtime/operation_registry.h"
#include "runloop/runtime/run_loop.h"
#include "runloop/runtime/session.h"
#include "runloop/runtime/slow_log.h"

namespace runloop {

// Which thread becomes the runtime thread.
enum class RuntimeThread {
  kBind,   // the one that calls Create; it later runs the loop (main threads, macOS, GTK)
  kSpawn,  // a new one, whose loop runs at once and until the runtime is destroyed
};

struct RuntimeOptions {
  // The run loop; null: a new epoll loop.
  std::unique_ptr<RunLoop> loop;
  // What can be dispatched by name.
  OperationRegistry operations;
  RuntimeThread thread = RuntimeThread::kBind;
  // How much work may be unfinished; more is refused.
  WorkBounds bounds;
  // The highest priority that a worker in a role may have, whatever it asks for: what is urgent
  // holds up all others.
  Priority role_priority = Priority::kDefault;
  // How many buffers there may be, and of what size.
  BufferBounds buffer_bounds;
  // What may wait for one subscriber in another process: of a session, or of one call of
  // runloop.v1.Notifications. In process it is the subscriber who says (SubscribeOptions).
  NotificationBounds notification_bounds;
  // Objects that one session may hold by handle.
  size_t max_handles = 10'000;
  // How long an object may take to close (handle.h) before it is destroyed as it is.
  absl::Duration close_timeout = absl::Seconds(5);
  // How much queued work one turn of the loop runs.
  DrainBudget budget;
  // A task that runs for longer makes the thread `stalled` in status and health, and is logged.
  absl::Duration stall_threshold = absl::Seconds(1);
  // An operation that starts after it has waited for at least so long, or an operation or closure
  // that runs for at least so long, is named in the log, as far as there are not many, and in the
  // snapshot (slow_log.h). A handler that defers runs until it returns; what runs in place, inside
  // another, is part of that. InfiniteDuration: none is.
  absl::Duration slow_queue_wait = absl::Seconds(1);
  absl::Duration slow_execution = absl::Milliseconds(100);
  // Null: CLOCK_MONOTONIC. Must outlive the runtime.
  Clock* clock = nullptr;
  // Null: stderr.
  LogSink log;
};

// The runtime thread, its queue and its operations.
//
// Threads: context(), Snapshot(), Stop() and BeginDrain() from any thread. With kBind, Create, Run,
// WaitForSignal, Drain and the destructor belong to one thread, the runtime thread; with kSpawn to
// the owner.
//
// Two threads are its own: with kSpawn the runtime thread, and always the service thread, which
// sleeps unless work is queued: it takes over intake when a task has run for 5 ms, expires
// deadlines, and logs a loop that was never started and a thread that is stuck.
class Runtime {
 public:
  using Options = RuntimeOptions;

  // INVALID_ARGUMENT if kSpawn is asked of a loop that cannot be run; or the loop's own error.
  static absl::StatusOr<std::unique_ptr<Runtime>> Create(Options options);

  // Stops: what has not started never runs and is destroyed on this thread. With kSpawn waits for
  // the task that is running. Contexts outlive the runtime and answer UNAVAILABLE.
  ~Runtime();

  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // Hands work to the runtime thread; every call gives the same context.
  LocalRuntimeContext context() const;

  // Runs the loop on this thread until SIGINT, SIGTERM or Stop. Returns the signal, or 0 after
  // Stop. Queued work that waited for the loop runs now. The signals' former dispositions are back
  // when it returns. It may be called again, which runs the loop on. FAILED_PRECONDITION: with
  // kSpawn, with a loop that somebody else runs, on another thread. UNAVAILABLE (RUNTIME_STOPPED):
  // after Drain.
  absl::StatusOr<int> WaitForSignal();

  // The same without looking at signals.
  absl::Status Run();

  // Makes Run and WaitForSignal return, the next call of them if none runs. What is queued stays
  // queued until Drain or the destructor. Any thread.
  void Stop();

  struct DrainResult {
    bool drained = false;   // nothing was left; else the deadline came first
    size_t not_closed = 0;  // objects that were destroyed without having been closed
    Ledger::Counts ledger;  // at the end
  };
  // Objects may take at least this long to close, whenever the drain's deadline comes.
  static constexpr absl::Duration kCloseGrace = absl::Seconds(1);

  // Runs the loop until nothing is queued, running or deferred, or `timeout` has passed; abandons
  // the rest and what is delayed, but for timers of closures, ends all sessions, and goes on
  // running the loop until the objects that they hold are closed or the deadline has come
  // (kCloseGrace); then destroys what is left. Afterwards the runtime is stopped. A task that does
  // not return holds this up: a host that must end in time watches from another thread. With kSpawn
  // it waits for that thread to do this. With a loop that somebody else runs, runs queued tasks
  // only.
  DrainResult Drain(absl::Duration timeout);

  // Refuses operations from now on with UNAVAILABLE (DRAINING); closures are still taken, since
  // what was admitted may need them. Any thread.
  void BeginDrain();

  // A consistent look; never waits for the runtime thread. Any thread.
  struct Snapshot {
    enum class State { kNotStarted, kIdle, kRunning, kStalled, kStopped };
    State state = State::kNotStarted;
    std::string loop;                                // RunLoop::kind
    std::string current_operation;                   // `(closure)` for one; empty when idle
    std::shared_ptr<const Session> current_session;  // whose work that is; null for the host's own
    std::string current_call_site;  // who handed it over (CallSite::ToString); empty: not known
    std::string current_trace_id;   // 32 digits; empty: it has no trace context
    std::string waits_for;          // what it blocks on, if that is another runtime; else empty
    absl::Duration current_age;
    // The first in line behind it, at most 8; without closures that were taken together with one
    // that runs.
    std::vector<InvocationStatus> next;
    absl::Duration oldest_wait;  // how long the oldest queued task has waited
    std::string notice;          // for people; empty if all is well
    bool draining = false;
    Ledger::Counts ledger;
    std::vector<BoundStatus> bounds;  // the runtime's, then by holder
    std::vector<std::shared_ptr<const Session>>
        sessions;                                      // oldest first; those that are closing too
    uint64_t slow = 0;                                 // how many waited or ran for long
    std::vector<InvocationStatus> recent_slow;         // the latest that ran, then that waited so
    std::vector<std::shared_ptr<const Topic>> topics;  // by name, with their counts
  };
  Snapshot GetSnapshot() const;

  // Unique to this runtime: 128 random bits in hexadecimal.
  const std::string& id() const;
  const OperationRegistry& operations() const;

  // For transports (the daemon): the core that sessions and invocations are made with.
  const std::shared_ptr<internal::RuntimeCore>& core() const { return core_; }

 private:
  Runtime(std::shared_ptr<internal::RuntimeCore> core, bool spawned);
  // The runtime thread of kSpawn.
  void ServeThread(std::promise<absl::Status>& bound);
  // Makes it drain, or stop at once, and waits for it.
  void EndThread(std::optional<absl::Duration> drain_timeout);

  const std::shared_ptr<internal::RuntimeCore> core_;
  const bool spawned_;
  std::thread thread_;  // of kSpawn; the owner's thread only

  absl::Mutex drain_mutex_;
  absl::CondVar ending_changed_;
  bool ending_ ABSL_GUARDED_BY(drain_mutex_) = false;
  std::optional<absl::Duration> drain_timeout_ ABSL_GUARDED_BY(drain_mutex_);
  DrainResult drain_result_ ABSL_GUARDED_BY(drain_mutex_);
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_RUNTIME_H_

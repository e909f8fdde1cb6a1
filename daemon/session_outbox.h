#ifndef RUNLOOP_DAEMON_SESSION_OUTBOX_H_
#define RUNLOOP_DAEMON_SESSION_OUTBOX_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/operation_task.h"

namespace runloop::daemon {

// What an invocation came to; null for success of which no reply is wanted.
using Outcome = absl::StatusOr<std::unique_ptr<google::protobuf::Message>>;

// What it counts for while the worker has not been told; 0 for what is only acknowledged.
size_t OutcomeBytes(const Outcome& outcome);
// An error whose text and details are as bounded as those of an RPC.
absl::Status BoundedStatus(absl::Status status);

// Where the invocations of one session gather that have their outcome, until they are written: a
// lock-free list, which the runtime thread adds to, waking who writes only if that has said that it
// sleeps. Shared by the session's transports, one after the other, and its invocations, which may
// outlive them.
//
// Threads: the transport's, one at a time, unless said otherwise.
class SessionOutbox final : public internal::OutcomeSink,
                            public std::enable_shared_from_this<SessionOutbox> {
 public:
  using Tasks = std::vector<std::shared_ptr<internal::OperationTask>>;

  // Who writes.
  class Waker {
   public:
    virtual ~Waker() = default;
    // Something has gathered after Sleep. Any thread; must not block.
    virtual void OnOutcomes() = 0;
  };
  // From now on another transport is woken, which then looks; null: none is.
  void SetWaker(std::shared_ptr<Waker> waker);

  // Any thread. Dropped if this is closed.
  void Deliver(std::shared_ptr<internal::OperationTask> task) override;

  // Moves what has gathered to the end of `to`, oldest first.
  void Take(Tasks& to);
  // True if there is something to take. Any thread.
  bool has_tasks() const { return IsTask(head_.load(std::memory_order_seq_cst)); }
  // The next Deliver wakes; false: there is something to take.
  bool Sleep();

  // OutcomeBytes of what has gathered. Any thread.
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

  // There is something else to write. Any thread.
  void WakeWriter() { Wake(); }

  // From now on outcomes are dropped.
  void Close();

 private:
  using Task = internal::OperationTask;

  // What head_ is besides the newest task.
  static Task* Empty() { return nullptr; }
  static Task* EmptyAndAsleep() { return reinterpret_cast<Task*>(uintptr_t{1}); }
  static Task* Closed() { return reinterpret_cast<Task*>(uintptr_t{2}); }
  static bool IsTask(const Task* head) { return reinterpret_cast<uintptr_t>(head) > 2; }

  // The list from `newest` on, turned round; none of them is in the outbox any more.
  void Release(Task* newest, Tasks& to);
  void Wake();

  alignas(64) std::atomic<Task*> head_{EmptyAndAsleep()};
  std::atomic<size_t> bytes_{0};

  absl::Mutex mutex_;
  std::shared_ptr<Waker> waker_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_OUTBOX_H_

#ifndef RUNLOOP_DAEMON_SESSION_OUTBOX_H_
#define RUNLOOP_DAEMON_SESSION_OUTBOX_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "google/protobuf/message.h"
#include "runloop/daemon/completion_thread.h"
#include "runloop/runtime/operation_task.h"

namespace runloop::daemon {

class SessionStream;

// What an invocation came to; null for success of which no reply is wanted.
using Outcome = absl::StatusOr<std::unique_ptr<google::protobuf::Message>>;

// What it counts for while the worker has not been told; 0 for what is only acknowledged.
size_t OutcomeBytes(const Outcome& outcome);
// An error whose text and details are as bounded as those of an RPC.
absl::Status BoundedStatus(absl::Status status);

// Where the invocations of one session stream gather that have their outcome, until the stream
// writes those: a lock-free list, which the runtime thread adds to, waking the stream's thread only
// if that has run out of outcomes. Shared by the stream and its invocations, which may outlive it.
class SessionOutbox final : public internal::OutcomeSink,
                            public std::enable_shared_from_this<SessionOutbox> {
 public:
  using Tasks = std::vector<std::shared_ptr<internal::OperationTask>>;

  SessionOutbox(std::shared_ptr<CompletionThread> completion, SessionStream* stream)
      : completion_(std::move(completion)), stream_(stream) {}

  // Any thread. Dropped if the stream is closed.
  void Deliver(std::shared_ptr<internal::OperationTask> task) override;

  // Moves what has gathered to the end of `to`, oldest first; if it is nothing, the next Deliver
  // wakes. The stream's thread.
  void Take(Tasks& to);

  // OutcomeBytes of what has gathered. Any thread.
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

  // From now on outcomes are dropped. The stream's thread.
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

  const std::shared_ptr<CompletionThread> completion_;
  SessionStream* stream_;  // the stream's thread only

  alignas(64) std::atomic<Task*> head_{EmptyAndAsleep()};
  std::atomic<size_t> bytes_{0};
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_OUTBOX_H_

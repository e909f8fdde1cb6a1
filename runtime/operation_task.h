#ifndef RUNLOOP_RUNTIME_OPERATION_TASK_H_
#define RUNLOOP_RUNTIME_OPERATION_TASK_H_

#include <atomic>
#include <memory>
#include <thread>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/operation_registry.h"
#include "runloop/runtime/task.h"

namespace runloop::internal {

class RuntimeCore;

// Gets an operation's outcome, exactly once, and is destroyed then. Called on the thread that
// decided it: the runtime thread, the one that finished a deferred completion, cancelled it, or
// stopped the runtime. Must not block.
using OutcomeCallback =
    absl::AnyInvocable<void(absl::StatusOr<std::unique_ptr<google::protobuf::Message>>) &&>;

// One invocation of an operation. Shared by the queue, the completion and whoever may cancel it.
class OperationTask final : public Task, public std::enable_shared_from_this<OperationTask> {
 public:
  OperationTask(std::shared_ptr<RuntimeCore> core, const Operation& operation,
                std::shared_ptr<Session> session,
                std::unique_ptr<google::protobuf::Message> request, absl::Time deadline,
                OutcomeCallback done);
  ~OperationTask();

  RunResult Run() override;
  void Skip(OutcomeKind kind) override;
  void Release() override { queue_reference_.reset(); }

  // The queue's reference, to be set just before posting.
  void HoldForQueue() { queue_reference_ = shared_from_this(); }

  // Gives the outcome of one that started. The first call counts. Any thread.
  void Finish(absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply);
  // A completion went away without Finish.
  void DropCompletion();

  RuntimeCore& core() const { return *core_; }

 private:
  // Where one that started is. Whoever changes it to kFinished delivers the outcome.
  enum class Phase : uint8_t { kInHandler, kDeferred, kFinished };

  void Deliver(absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply);

  const std::shared_ptr<RuntimeCore> core_;
  std::unique_ptr<google::protobuf::Message> request_;  // until Run
  OutcomeCallback done_;                                // whoever set kFinished or won TryEnd
  std::shared_ptr<OperationTask> queue_reference_;      // the queue's

  std::atomic<Phase> phase_{Phase::kInHandler};
  std::atomic<bool> delivered_{false};
  // The runtime thread only. A completion that the handler's own frames drop waits for what the
  // handler does next: if it is throwing, the exception is the outcome.
  bool in_handler_ = false;
  bool dropped_in_handler_ = false;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_OPERATION_TASK_H_

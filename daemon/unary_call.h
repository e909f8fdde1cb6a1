#ifndef RUNLOOP_DAEMON_UNARY_CALL_H_
#define RUNLOOP_DAEMON_UNARY_CALL_H_

#include <grpcpp/alarm.h>

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "runloop/daemon/reply_thread.h"
#include "runloop/runtime/core.h"

namespace runloop::daemon {

// One unary RPC and the invocation it stands for: whichever of outcome, refusal, cancellation and
// deadline comes first ends the RPC, and the others find it ended. If the invocation was queued
// then, it never runs; if it was running, its outcome is dropped.
//
// Threads: any. Ownership: shared by the RPC's reactor and the invocation; outlives the server if
// the invocation does.
class UnaryCall : public std::enable_shared_from_this<UnaryCall> {
 public:
  using Outcome = absl::StatusOr<std::unique_ptr<google::protobuf::Message>>;
  // Ends the RPC; called exactly once, never on the runtime thread. `admitted`: the invocation had
  // a place in the queue, so an error is its own outcome.
  using Finish = absl::AnyInvocable<void(Outcome outcome, bool admitted) &&>;

  UnaryCall(std::shared_ptr<internal::RuntimeCore> core, std::shared_ptr<ReplyThread> replies,
            Finish finish)
      : core_(std::move(core)), replies_(std::move(replies)), finish_(std::move(finish)) {}

  // Dispatches `call` unless the RPC has ended; `call.done` is set here. `watch_deadline`: nobody
  // else ends the RPC when `call.deadline` comes, so do it here.
  void Start(internal::RuntimeCore::Call call, bool watch_deadline);

  // Ends the RPC without an invocation.
  void Refuse(absl::Status status) { Complete(std::move(status), false); }

  // The peer does not wait any more.
  void Cancel();

  // gRPC is done with the RPC. What was done for it on other threads has happened before this
  // returns; gRPC sees to that too, but in a way that ThreadSanitizer does not see.
  void Join();

 private:
  void Complete(Outcome outcome, bool admitted);
  void OnDeadline();
  void GiveUp(internal::OperationTask& task, OutcomeKind kind);

  const std::shared_ptr<internal::RuntimeCore> core_;
  const std::shared_ptr<ReplyThread> replies_;

  absl::Mutex mutex_;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  Finish finish_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<internal::OperationTask> task_ ABSL_GUARDED_BY(mutex_);  // until Join
  std::unique_ptr<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_UNARY_CALL_H_

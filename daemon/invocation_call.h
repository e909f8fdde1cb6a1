#ifndef RUNLOOP_DAEMON_INVOCATION_CALL_H_
#define RUNLOOP_DAEMON_INVOCATION_CALL_H_

#include <grpcpp/alarm.h>

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "runloop/daemon/call.h"
#include "runloop/runtime/core.h"

namespace runloop::daemon {

// How long a call may take: `wanted` from now, or until its RPC's own deadline if that is sooner.
struct CallDeadline {
  absl::Time start_by;           // by the runtime's clock
  bool ends_before_rpc = false;  // the RPC itself would wait for longer

  // Nothing wanted: what the RPC says, or 30 s if it says nothing.
  static CallDeadline Of(const grpc::ServerContextBase& context,
                         std::optional<absl::Duration> wanted, const Clock& clock);
};

// A unary RPC that stands for one invocation: whichever of outcome, refusal, cancellation and
// deadline comes first ends the RPC. If the invocation was queued then, it never runs; if it was
// running, its outcome is dropped.
//
// Threads: the completion-queue thread. The invocation may outlive it.
class InvocationCall : public CallHandler {
 public:
  using Outcome = absl::StatusOr<std::unique_ptr<google::protobuf::Message>>;

  ~InvocationCall() override;

  void Start() final;
  void OnRead(grpc::ByteBuffer* bytes) final;
  void OnWritten(bool) final {}
  void OnGone() final;

 protected:
  InvocationCall(std::shared_ptr<internal::RuntimeCore> core, Call& call)
      : core_(std::move(core)), call_(call) {}

  // Says why the RPC is refused before its request is looked at.
  virtual absl::Status Prepare() { return absl::OkStatus(); }
  // Calls Dispatch, or says why not.
  virtual absl::Status OnRequest(grpc::ByteBuffer& bytes) = 0;
  // Ends the RPC with what the invocation came to, or why it was refused. `admitted`: it had a
  // place in the queue, so an error is its own outcome.
  virtual void Answer(Outcome outcome, bool admitted) = 0;

  // `invocation.sink` and `invocation.deadline` are set here.
  absl::Status Dispatch(internal::RuntimeCore::Call invocation, const CallDeadline& deadline);

  internal::RuntimeCore& core() { return *core_; }
  Call& call() { return call_; }

 private:
  // What the invocation and the alarm know of this, who may outlive it. Read on the
  // completion-queue thread.
  class Link;

  void Complete(Outcome outcome, bool admitted);
  void OnDeadline();
  void GiveUp(OutcomeKind kind);

  const std::shared_ptr<internal::RuntimeCore> core_;
  Call& call_;
  std::shared_ptr<Link> link_;
  std::shared_ptr<internal::OperationTask> task_;
  std::unique_ptr<grpc::Alarm> alarm_;
  bool completed_ = false;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_INVOCATION_CALL_H_

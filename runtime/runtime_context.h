#ifndef RUNLOOP_RUNTIME_RUNTIME_CONTEXT_H_
#define RUNLOOP_RUNTIME_RUNTIME_CONTEXT_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/invocation.h"
#include "runloop/runtime/wait_chain.h"

namespace runloop {

// How long a blocking call waits that names no timeout.
inline constexpr absl::Duration kDefaultTimeout = absl::Seconds(30);

// What a dispatch does that a bound on unfinished work (QUEUE_FULL) stands in the way of.
enum class WhenFull {
  // It is refused, at once.
  kFail,
  // It waits for room, as long as its timeout allows; then it is refused. DispatchBlocking tries
  // again after what the refusal hints at. DispatchAsync blocks its caller until this session has
  // room, and keeps the order of calls; a bound that other sessions fill still refuses it. Not on
  // the runtime thread or in a Watch callback, where it is kFail.
  kWait,
};

struct DispatchOptions {
  // From now. An invocation that has not started by then never runs; a caller that blocks stops
  // waiting then. Default: 30 s for DispatchBlocking, none for DispatchAsync.
  std::optional<absl::Duration> timeout;
  // Not empty: takes the place in the queue of an earlier dispatch of this session with the same
  // key that has not started, whose outcome is then ABORTED (SUPERSEDED). For what only the newest
  // of matters, such as a window's size. At most 128 bytes.
  std::string coalesce_key;
  WhenFull when_full = WhenFull::kFail;
};

namespace internal {

// Null for void.
template <typename Reply>
const google::protobuf::Descriptor* DescriptorOf() {
  if constexpr (std::is_void_v<Reply>) {
    return nullptr;
  } else {
    return Reply::descriptor();
  }
}

// A way to a runtime: in process (local_target) or over a connection (client/).
class DispatchTarget {
 public:
  struct Call {
    std::string operation;
    std::unique_ptr<google::protobuf::Message> request;
    bool reply_wanted = false;
    const google::protobuf::Descriptor* reply_type = nullptr;  // if a reply is wanted
    absl::Duration timeout = absl::InfiniteDuration();
    std::string coalesce_key;
    WhenFull when_full = WhenFull::kFail;
    Chain chain;  // the runtimes that wait for it, if it is blocked on by one
  };

  virtual ~DispatchTarget() = default;
  // Waits only for room, where `when_full` says so. A refusal is the invocation's outcome.
  virtual std::shared_ptr<InvocationState> Dispatch(Call call) = 0;
  // Dispatch and a wait.
  virtual absl::StatusOr<Reply> DispatchBlocking(Call call);
};

}  // namespace internal

// Hands operations to a runtime thread, wherever it is: in this process or in a daemon's. A value:
// cheap to copy, safe from any thread; copies share one session, which ends when the last copy is
// gone. What was dispatched before that still runs.
//
// Obtained from Connect (client/connect.h) or LocalRuntimeContext::AsRuntimeContext.
//
// Order: dispatches of one session start in the order of the calls that made them. After the
// runtime has stopped, or where there is no connection, each outcome is UNAVAILABLE; nothing hangs.
class RuntimeContext {
 public:
  explicit RuntimeContext(std::shared_ptr<internal::DispatchTarget> target)
      : target_(std::move(target)) {}

  // Runs the operation and waits for its reply.
  //
  // DEADLINE_EXCEEDED with EXPIRED: it had not started and never runs; with STILL_RUNNING: it
  // had, as far as is known, and runs on. ABORTED (COMPLETION_DROPPED): the operation had deferred
  // its completion and did not finish by then. UNIMPLEMENTED: no such operation. INVALID_ARGUMENT:
  // Request or Reply is not its type. RESOURCE_EXHAUSTED: a queue is full. UNAVAILABLE: stopped,
  // draining, not connected: nothing ran. UNKNOWN (SESSION_LOST): the connection broke after
  // sending. INTERNAL: the handler threw. Others are the operation's own. ReasonOf (error.h) gives
  // a program the reason, such as EXPIRED.
  //
  // Deadlock: from the runtime thread of the same process it runs in place; if the operation defers
  // its completion there, it goes on and the answer is DEADLINE_EXCEEDED (STILL_RUNNING) at once.
  // Out of an operation of one runtime into another it blocks that first runtime thread; a cycle of
  // such calls is FAILED_PRECONDITION (DEADLOCK), as it is of waits by Invocation::Await. Waiting
  // in an operation in another way is not known to the runtime, and no cycle through it is found.
  template <typename Reply, typename Request>
  absl::StatusOr<Reply> DispatchBlocking(std::string_view operation, Request request,
                                         const DispatchOptions& options = {}) const {
    absl::StatusOr<internal::Reply> reply =
        target_->DispatchBlocking({.operation = std::string(operation),
                                   .request = std::make_unique<Request>(std::move(request)),
                                   .reply_wanted = true,
                                   .reply_type = Reply::descriptor(),
                                   .timeout = options.timeout.value_or(kDefaultTimeout),
                                   .coalesce_key = options.coalesce_key,
                                   .when_full = options.when_full});
    if (!reply.ok()) return reply.status();
    return internal::TakeReply<Reply>(*std::move(reply));
  }

  // Queues the operation and returns at once, from any thread. `Reply` void: only success or
  // failure comes back, which costs least; else Invocation::AwaitReply<Reply> gives the reply.
  // Errors are the invocation's outcome.
  template <typename Reply = void, typename Request>
  Invocation DispatchAsync(std::string_view operation, Request request,
                           const DispatchOptions& options = {}) const {
    return Invocation(
        target_->Dispatch({.operation = std::string(operation),
                           .request = std::make_unique<Request>(std::move(request)),
                           .reply_wanted = !std::is_void_v<Reply>,
                           .reply_type = internal::DescriptorOf<Reply>(),
                           .timeout = options.timeout.value_or(absl::InfiniteDuration()),
                           .coalesce_key = options.coalesce_key,
                           .when_full = options.when_full}));
  }

 private:
  std::shared_ptr<internal::DispatchTarget> target_;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_RUNTIME_CONTEXT_H_

#ifndef RUNLOOP_RUNTIME_DISPATCH_TARGET_H_
#define RUNLOOP_RUNTIME_DISPATCH_TARGET_H_

// What is behind a RuntimeContext, and the types that both of them name. WhenFull and BufferAccess
// are for users.

#include <cstddef>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/buffer.h"
#include "runloop/runtime/call_site.h"
#include "runloop/runtime/invocation.h"
#include "runloop/runtime/subscription.h"
#include "runloop/runtime/trace_context.h"
#include "runloop/runtime/wait_chain.h"

namespace runloop {

class Batch;
struct BatchOptions;

// What a dispatch does that a bound on unfinished work (QUEUE_FULL) stands in the way of.
enum class WhenFull {
  // It is refused, at once.
  kFail,
  // It waits for room, as long as its timeout allows; then it is refused (QUEUE_FULL).
  // DispatchBlocking tries again after what the refusal hints at. DispatchAsync blocks its caller
  // until this session has room, and keeps the order of calls; a bound that other sessions fill
  // still refuses it. Not on the runtime thread or in a Watch callback, where it is kFail.
  kWait,
};

// What another session may do with a buffer that it is granted.
enum class BufferAccess { kRead, kWrite };

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

// Of those behind what did not succeed, in a batch that stops then.
absl::Status BatchStopped();
// INVALID_ARGUMENT (INVALID_REQUEST): a batch has at most kMostInBatch.
absl::Status CheckBatchSize(size_t size);
// What a stop token brings: it never ran; or it had started, and runs on.
absl::Status StoppedBefore();
absl::Status StoppedWhileRunning(std::string_view operation);

// A way to a runtime: in process (local_target) or over a connection (client/).
class DispatchTarget {
 public:
  struct Call {
    std::string operation;
    std::unique_ptr<google::protobuf::Message> request;
    bool reply_wanted = false;
    const google::protobuf::Descriptor* reply_type = nullptr;  // if a reply is wanted
    absl::Duration timeout = absl::InfiniteDuration();
    absl::Duration delay;
    std::string coalesce_key;
    WhenFull when_full = WhenFull::kFail;
    Chain chain;  // the runtimes that wait for it, if it is blocked on by one
    CallSite call_site;
    TraceParent trace_parent;    // null: none
    std::stop_token stop_token;  // DispatchBlocking's alone
  };

  virtual ~DispatchTarget() = default;
  // Waits only for room, where `when_full` says so. A refusal is the invocation's outcome.
  virtual std::shared_ptr<InvocationState> Dispatch(Call call) = 0;
  // Dispatch and a wait.
  virtual absl::StatusOr<Reply> DispatchBlocking(Call call) = 0;
  // Calls that run in a row, all with the same timeout; there is at least one. One state for each.
  // Waits only for room, where the first one's `when_full` says so.
  virtual std::vector<std::shared_ptr<InvocationState>> DispatchBatch(std::vector<Call> calls,
                                                                      bool stop_at_failure) = 0;

  // Dispatch, and what follows from a stop token: kStop for whoever waits for nothing else.
  enum class WhenStopped { kCancel, kStop };
  std::shared_ptr<InvocationState> DispatchUntilStopped(Call call, const std::stop_token& token,
                                                        WhenStopped means);

  std::vector<std::shared_ptr<InvocationState>> DispatchBatchUntilStopped(
      Batch batch, const BatchOptions& options);

  // As RuntimeContext's.
  virtual absl::StatusOr<Buffer> NewBuffer(size_t size) = 0;
  virtual absl::StatusOr<Buffer> OpenBuffer(v1::BufferRef ref) = 0;
  virtual absl::Status Grant(const Buffer& buffer, const std::string& session_id,
                             BufferAccess access) = 0;
  virtual absl::StatusOr<uint64_t> SendDescriptor(int fd) = 0;
  virtual std::string SessionId() = 0;
  virtual absl::StatusOr<std::shared_ptr<SubscriptionState>> Subscribe(
      SubscriptionState::Call call) = 0;
};

// Why a blocking call with a delay is refused.
absl::Status NoDelayWhenBlocking();
// INVALID_ARGUMENT (INVALID_REQUEST): it is longer than it may be, or not UTF-8.
absl::Status CheckCoalesceKey(const std::string& key);
// INVALID_ARGUMENT: it is not open.
absl::Status CheckDescriptor(int fd);

}  // namespace internal

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_DISPATCH_TARGET_H_

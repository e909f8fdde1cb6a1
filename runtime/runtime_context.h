#ifndef RUNLOOP_RUNTIME_RUNTIME_CONTEXT_H_
#define RUNLOOP_RUNTIME_RUNTIME_CONTEXT_H_

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/batch.h"
#include "runloop/runtime/buffer.h"
#include "runloop/runtime/call_site.h"
#include "runloop/runtime/dispatch_target.h"
#include "runloop/runtime/invocation.h"
#include "runloop/runtime/pending.h"
#include "runloop/runtime/subscription.h"
#include "runloop/runtime/trace_context.h"

namespace runloop {

// How long a blocking call waits that names no timeout.
inline constexpr absl::Duration kDefaultTimeout = absl::Seconds(30);

struct DispatchOptions {
  // From now. An invocation that has not started by then never runs; a caller that blocks stops
  // waiting then. Default: 30 s for DispatchBlocking, none for DispatchAsync.
  std::optional<absl::Duration> timeout;
  // Not empty: takes the place in the queue of an earlier dispatch of this session with the same
  // key that has not started, whose outcome is then ABORTED (SUPERSEDED). For what only the newest
  // of matters, such as a window's size. At most 128 bytes.
  //
  // With a delay, of either, there is no place to be taken: the earlier one ends, and the newer one
  // joins the queue when it is due itself. So of many that come within their delay only the last
  // runs.
  std::string coalesce_key;
  WhenFull when_full = WhenFull::kFail;
  // From when the runtime takes it in until it joins the queue (DispatchAfter); not positive: none.
  // Not with DispatchBlocking: INVALID_ARGUMENT (INVALID_REQUEST).
  absl::Duration delay;
  // Once stop is requested, what has not started never runs: CANCELLED. What has started runs on,
  // and its outcome is told, by DispatchAsync; who waits, by DispatchBlocking or Dispatch, waits no
  // longer: CANCELLED (STILL_RUNNING), and what it makes is released when it ends, as at a timeout.
  // Requested before the call, nothing is sent. A call that waits for room (kWait) has it first.
  //
  // Whoever requests stop does the cancelling on that thread, with what this has to run, such as
  // Watch callbacks in process; any thread may, also in a handler or a callback. A daemon that does
  // not answer keeps a caller until its timeout. In place on the runtime thread it comes too late.
  std::stop_token stop_token;
  // W3C trace context, as in the header `traceparent`; else INVALID_ARGUMENT. Empty: that of the
  // operation whose handler dispatches, on the runtime thread, or else none. It goes along and is
  // told by status and logs; no span is made.
  std::string trace_parent;
};

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
  //
  // `where`, the call itself unless a function that wraps it passes on its own caller's, is what
  // status, notices and the slow-operation log name, and what the handler is told
  // (OperationContext::call_site).
  template <typename Reply, typename Request>
  absl::StatusOr<Reply> DispatchBlocking(std::string_view operation, Request request,
                                         const DispatchOptions& options = DispatchOptions(),
                                         SourceLocation where = SourceLocation::current()) const {
    absl::StatusOr<internal::Reply> reply =
        target_->DispatchBlocking({.operation = std::string(operation),
                                   .request = std::make_unique<Request>(std::move(request)),
                                   .reply_wanted = true,
                                   .reply_type = Reply::descriptor(),
                                   .timeout = options.timeout.value_or(kDefaultTimeout),
                                   .delay = options.delay,
                                   .coalesce_key = options.coalesce_key,
                                   .when_full = options.when_full,
                                   .call_site = CallSite(where),
                                   .trace_parent = internal::TraceParentOr(options.trace_parent),
                                   .stop_token = options.stop_token});
    if (!reply.ok()) return reply.status();
    return internal::TakeReply<Reply>(*std::move(reply));
  }

  // Queues the operation and returns at once, from any thread. `Reply` void: only success or
  // failure comes back, which costs least; else Invocation::AwaitReply<Reply> gives the reply.
  // Errors are the invocation's outcome. `where` as above.
  template <typename Reply = void, typename Request>
  Invocation DispatchAsync(std::string_view operation, Request request,
                           const DispatchOptions& options = DispatchOptions(),
                           SourceLocation where = SourceLocation::current()) const {
    return Invocation(
        Start<Reply>(operation, std::move(request), options, WhenStopped::kCancel, where));
  }

  // As DispatchAsync, for a coroutine or a callback: `co_await context.Dispatch<Reply>(...)` gives
  // absl::StatusOr<Reply>, or absl::Status where Reply is void (pending.h says where it goes on).
  // It is dispatched by this call, not by `co_await`, so that the order is that of the calls.
  template <typename Reply = void, typename Request>
  Pending<Reply> Dispatch(std::string_view operation, Request request,
                          const DispatchOptions& options = DispatchOptions(),
                          SourceLocation where = SourceLocation::current()) const {
    return Pending<Reply>(
        Start<Reply>(operation, std::move(request), options, WhenStopped::kStop, where));
  }
#if RUNLOOP_OPTIONS_NEED_A_NAME
  template <typename Reply = void, typename Request>
  Pending<Reply> Dispatch(std::string_view operation, Request request, DispatchOptions&& options,
                          SourceLocation where = SourceLocation::current()) const = delete;
#endif

  // As DispatchAsync with `options.delay`: the operation is taken in now, which counts against the
  // bounds and may be refused, and joins the queue `delay` later, behind what is there by then, by
  // the runtime's own clock (LocalRuntimeContext::RunAfter says how exactly). Where two are due at
  // the same moment, the one that was dispatched first.
  //
  // Until it starts it can be cancelled, ends with its session, and expires by its timeout, which
  // counts from the dispatch: give one that is longer than the delay, or none. A drain does not
  // wait for what is not due: it ends as UNAVAILABLE (RUNTIME_STOPPED) when all else is done.
  template <typename Reply = void, typename Request>
  Invocation DispatchAfter(absl::Duration delay, std::string_view operation, Request request,
                           DispatchOptions options = DispatchOptions(),
                           SourceLocation where = SourceLocation::current()) const {
    options.delay = delay;
    return DispatchAsync<Reply>(operation, std::move(request), options, where);
  }

  // Queues a batch (batch.h), and returns at once, but for WhenFull::kWait: one invocation for each
  // operation, in the order in which they were added; WaitAll (wait.h) awaits them. On the runtime
  // thread nothing else of the queue starts between them, whatever its priority, though the loop
  // may give the platform's own events a turn. All are taken in or none: a refusal is the outcome
  // of each then, such as MESSAGE_TOO_LARGE for more than fits into one message or a bound, at
  // once.
  //
  // Each has its own outcome and may be cancelled alone. One that defers its completion does not
  // hold up those behind it.
  std::vector<Invocation> DispatchBatch(Batch batch, const BatchOptions& options = {}) const {
    std::vector<Invocation> invocations;
    for (auto& state : target_->DispatchBatchUntilStopped(std::move(batch), options)) {
      invocations.push_back(Invocation(std::move(state)));
    }
    return invocations;
  }

  // Memory that the host sees as well, of `size` bytes (buffer.h). Its content is zero, or what an
  // earlier buffer of this session held. Where the connection carries no descriptors it is memory
  // of this process, whose bytes travel in messages.
  //
  // Asks the daemon, but not its runtime thread, unless a buffer of about this size was given back
  // before: the client keeps some, so that a worker that makes, sends and drops a buffer for each
  // frame mostly makes no call of the kernel.
  //
  // RESOURCE_EXHAUSTED (BUFFERS_FULL): with whose bound it is, and who holds the room. UNAVAILABLE:
  // not connected.
  absl::StatusOr<Buffer> NewBuffer(size_t size) const { return target_->NewBuffer(size); }

  // What a reply refers to: a buffer that the operation made for this session, which is given back
  // with the last copy, or one that another session granted to it, which is mapped once and stays
  // known until its owner releases it. NOT_FOUND (UNKNOWN_BUFFER), INVALID_ARGUMENT
  // (INVALID_REQUEST).
  absl::StatusOr<Buffer> OpenBuffer(v1::BufferRef ref) const {
    return target_->OpenBuffer(std::move(ref));
  }

  // Lets another session use a buffer of this one's until this one releases it; tell it by a
  // message with its ref, by way of an operation. A buffer that was granted is not recycled, so
  // whoever sends many keeps some, granted once. With kRead nobody, not even this session, can map
  // it for writing from now on; this Buffer stays writable.
  //
  // FAILED_PRECONDITION: its bytes travel in messages, or it was granted otherwise before.
  // INVALID_ARGUMENT (UNKNOWN_SESSION). NOT_FOUND (UNKNOWN_BUFFER): it is not this session's own.
  absl::Status Grant(const Buffer& buffer, const std::string& session_id,
                     BufferAccess access = BufferAccess::kRead) const {
    return target_->Grant(buffer, session_id, access);
  }

  // Hands a file descriptor over, such as a file or a dma-buf; the caller keeps its own. The id is
  // for a request: one operation takes it (OperationContext::TakeDescriptor). INVALID_ARGUMENT: it
  // is not open. FAILED_PRECONDITION: the connection carries no descriptors. RESOURCE_EXHAUSTED
  // (BUFFERS_FULL): too many wait.
  absl::StatusOr<uint64_t> SendDescriptor(int fd) const {
    if (absl::Status open = internal::CheckDescriptor(fd); !open.ok()) return open;
    return target_->SendDescriptor(fd);
  }

  // Gets what the host publishes on `topic`, to all or to this session
  // (LocalRuntimeContext::Publish, Session::Publish), until the Subscription is destroyed: by its
  // Poll and Next, or by `callback`, which may be moved to a thread of one's choice
  // (SubscribeOptions::executor) and must not throw. Never waits: over a connection the daemon
  // learns of it before it learns of what this context dispatches afterwards, and while there is no
  // session, in the next one.
  //
  // NOT_FOUND (UNKNOWN_TOPIC). INVALID_ARGUMENT: Message is not its type. RESOURCE_EXHAUSTED
  // (SUBSCRIPTIONS_FULL): this session has as many as it may. UNAVAILABLE: the runtime has stopped.
  template <typename Message>
  absl::StatusOr<Subscription<Message>> Subscribe(std::string_view topic,
                                                  SubscribeOptions options = {}) const {
    return MakeSubscription<Message>(topic, nullptr, std::move(options));
  }
  template <typename Message>
  absl::StatusOr<Subscription<Message>> Subscribe(
      std::string_view topic, std::function<void(const Notification<Message>&)> callback,
      SubscribeOptions options = {}) const {
    return MakeSubscription<Message>(
        topic,
        [callback = std::move(callback)](const internal::QueuedNotification& queued) {
          const auto notification = internal::ToNotification<Message>(queued);
          if (notification.has_value()) callback(*notification);
          return notification.has_value();
        },
        std::move(options));
  }

  // Names this session to others, for Grant; empty while there is none. Another one after the
  // session was lost, in which buffers of the former are unknown.
  std::string session_id() const { return target_->SessionId(); }

 private:
  template <typename Message>
  absl::StatusOr<Subscription<Message>> MakeSubscription(
      std::string_view topic, internal::SubscriptionState::Callback callback,
      SubscribeOptions options) const {
    absl::StatusOr<std::shared_ptr<internal::SubscriptionState>> state =
        target_->Subscribe({.topic = std::string(topic),
                            .type = Message::descriptor(),
                            .options = std::move(options),
                            .callback = std::move(callback)});
    if (!state.ok()) return state.status();
    return Subscription<Message>(*std::move(state));
  }

  using WhenStopped = internal::DispatchTarget::WhenStopped;

  template <typename Reply, typename Request>
  std::shared_ptr<internal::InvocationState> Start(std::string_view operation, Request request,
                                                   const DispatchOptions& options,
                                                   WhenStopped when_stopped,
                                                   SourceLocation where) const {
    internal::DispatchTarget::Call call{
        .operation = std::string(operation),
        .request = std::make_unique<Request>(std::move(request)),
        .reply_wanted = !std::is_void_v<Reply>,
        .reply_type = internal::DescriptorOf<Reply>(),
        .timeout = options.timeout.value_or(absl::InfiniteDuration()),
        .delay = options.delay,
        .coalesce_key = options.coalesce_key,
        .when_full = options.when_full,
        .call_site = CallSite(where),
        .trace_parent = internal::TraceParentOr(options.trace_parent)};
    if (!options.stop_token.stop_possible()) return target_->Dispatch(std::move(call));
    return target_->DispatchUntilStopped(std::move(call), options.stop_token, when_stopped);
  }

  std::shared_ptr<internal::DispatchTarget> target_;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_RUNTIME_CONTEXT_H_

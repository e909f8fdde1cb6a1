#ifndef RUNLOOP_RUNTIME_OPERATION_CONTEXT_H_
#define RUNLOOP_RUNTIME_OPERATION_CONTEXT_H_

#include <memory>
#include <string_view>
#include <type_traits>
#include <typeindex>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/buffer.h"
#include "runloop/runtime/call_site.h"
#include "runloop/runtime/handle.h"
#include "runloop/runtime/handle_table.h"
#include "runloop/runtime/session.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop {

class LocalRuntimeContext;

namespace internal {
class OperationTask;

// Owns one invocation's outcome: Finish gives it, destruction without Finish gives ABORTED.
class CompletionBase {
 public:
  explicit CompletionBase(std::shared_ptr<OperationTask> task);
  CompletionBase(CompletionBase&&) noexcept = default;
  CompletionBase& operator=(CompletionBase&& other) noexcept;
  ~CompletionBase();

  void Finish(absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply);
  // False: Finish may be given null for a reply.
  bool reply_wanted() const;
  absl::StatusOr<Handle> Keep(std::unique_ptr<HeldObject> object, std::type_index type);

 private:
  std::shared_ptr<OperationTask> task_;
};
}  // namespace internal

// What a handler may know and do besides its request. Lives as long as the handler's call; the
// runtime thread only.
class OperationContext {
 public:
  explicit OperationContext(internal::OperationTask& task) : task_(task) {}
  OperationContext(const OperationContext&) = delete;
  OperationContext& operator=(const OperationContext&) = delete;

  // `package.Service/Method`.
  std::string_view operation() const;
  // Whose work this is. Its Find gives the object that a handle in the request names.
  const std::shared_ptr<Session>& session() const;
  // When the caller stops waiting, by the runtime's clock; InfiniteFuture if it never does.
  absl::Time deadline() const;
  // Where in its caller's source it was dispatched; a worker's own words, and perhaps not known.
  CallSite call_site() const;
  // The W3C trace context that it was dispatched with (`traceparent`); empty: none. What the
  // handler dispatches itself inherits it; what it does later, on other threads or in closures that
  // it hands over, does not.
  std::string_view trace_parent() const;
  // Hands closures to the runtime thread, from any thread: for platform callbacks that come on
  // others.
  LocalRuntimeContext runtime() const;

  // Gives an object to the session and returns the handle that names it, for the reply: it lives
  // until it is released or the session ends, whichever comes first, and is closed then (handle.h).
  // If nobody will see the reply, since the caller has given up, it is released at once.
  //
  // RESOURCE_EXHAUSTED (HANDLES_FULL): the session holds as many as it may; the object is
  // destroyed. Of a session that has just ended the object is closed with the others.
  template <typename T>
  absl::StatusOr<Handle> Keep(std::unique_ptr<T> object) {
    return KeepObject(std::make_unique<internal::HeldObjectOf<T>>(std::move(object)), typeid(T));
  }

  // What a field of the request refers to (buffer.h); mapped already, so that it costs no call of
  // the kernel. It may be kept after the handler, and used on any thread. Its bytes are a peer's.
  //
  // NOT_FOUND (UNKNOWN_BUFFER): the session has no such buffer, or no more. INVALID_ARGUMENT
  // (INVALID_REQUEST): the piece does not lie within the buffer.
  absl::StatusOr<Buffer> OpenBuffer(v1::BufferRef ref) const;

  // A buffer of the session's, for the reply: the worker opens it (RuntimeContext::OpenBuffer) and
  // gives it back with its last copy; it ends with the session. RESOURCE_EXHAUSTED (BUFFERS_FULL).
  absl::StatusOr<Buffer> NewBuffer(size_t size) const;

  // The file descriptor that the worker has sent (RuntimeContext::SendDescriptor); one call gets
  // it. It may be of anything: ask the kernel what it is before using it. Closing
  // it may take as long as its sender likes. NOT_FOUND (UNKNOWN_BUFFER): there is none of this id.
  absl::StatusOr<UniqueFd> TakeDescriptor(uint64_t id) const;

 private:
  absl::StatusOr<Handle> KeepObject(std::unique_ptr<internal::HeldObject> object,
                                    std::type_index type);

  internal::OperationTask& task_;
};

// The right and duty to finish one invocation later, from any thread: what a handler registered
// with RegisterDeferred gets. The runtime thread goes on meanwhile. Move-only.
//
// Exactly one outcome: the first Finish gives it. Destroying the completion without it fails the
// invocation with ABORTED (COMPLETION_DROPPED). If neither has come when the deadline passes, or
// when the session or the runtime ends, it fails with ABORTED; what Finish then says is dropped.
template <typename Reply>
class Completion {
 public:
  explicit Completion(internal::CompletionBase base) : base_(std::move(base)) {}
  Completion(Completion&&) noexcept = default;
  Completion& operator=(Completion&&) noexcept = default;

  // Gives the outcome. Does not block and runs nothing of the caller's. A second call does nothing.
  void Finish(absl::StatusOr<Reply> reply) {
    if (!reply.ok()) {
      base_.Finish(reply.status());
    } else if (base_.reply_wanted()) {
      base_.Finish(std::make_unique<Reply>(*std::move(reply)));
    } else {
      base_.Finish(nullptr);
    }
  }

  // As OperationContext::Keep, before Finish. The runtime thread. ABORTED too if the invocation has
  // ended meanwhile: nobody would hear of the object.
  template <typename T>
  absl::StatusOr<Handle> Keep(std::unique_ptr<T> object) {
    return base_.Keep(std::make_unique<internal::HeldObjectOf<T>>(std::move(object)), typeid(T));
  }

 private:
  internal::CompletionBase base_;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_OPERATION_CONTEXT_H_

#ifndef RUNLOOP_RUNTIME_OPERATION_CONTEXT_H_
#define RUNLOOP_RUNTIME_OPERATION_CONTEXT_H_

#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/session.h"

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
  // Whose work this is. Keep it (as a shared_ptr) where things are kept for the session.
  const std::shared_ptr<Session>& session() const;
  // When the caller stops waiting, by the runtime's clock; InfiniteFuture if it never does.
  absl::Time deadline() const;
  // Hands closures to the runtime thread, from any thread: for platform callbacks that come on
  // others.
  LocalRuntimeContext runtime() const;

 private:
  internal::OperationTask& task_;
};

// The right and duty to finish one invocation later, from any thread: what a handler registered
// with RegisterDeferred gets. The runtime thread goes on meanwhile. Move-only.
//
// Exactly one outcome: the first Finish gives it. Destroying the completion without it fails the
// invocation with ABORTED (COMPLETION_DROPPED). After the runtime stopped, Finish does nothing.
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
    } else {
      base_.Finish(std::make_unique<Reply>(*std::move(reply)));
    }
  }

 private:
  internal::CompletionBase base_;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_OPERATION_CONTEXT_H_

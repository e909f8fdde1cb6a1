#ifndef RUNLOOP_RUNTIME_OPERATION_REGISTRY_H_
#define RUNLOOP_RUNTIME_OPERATION_REGISTRY_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/latency.h"
#include "runloop/runtime/operation_context.h"
#include "runloop/runtime/split_count.h"
#include "runloop/runtime/topic.h"

namespace runloop {

// One registered operation: an RPC method of its author's .proto and the handler that runs it.
// Constant once the runtime exists, but for the counts. Safe from any thread.
class Operation {
 public:
  // Runs on the runtime thread. May move from the request, which is of the operation's type, and
  // finishes `completion`, before it returns or later.
  using Handler = absl::AnyInvocable<void(OperationContext&, google::protobuf::Message& request,
                                          internal::CompletionBase completion)>;

  Operation(const google::protobuf::MethodDescriptor* method, std::string name, Handler handler);

  // `package.Service/Method`.
  const std::string& name() const { return name_; }
  const google::protobuf::MethodDescriptor& method() const { return *method_; }
  // A new, empty request of the generated type.
  std::unique_ptr<google::protobuf::Message> NewRequest() const;
  // Parses a request from a peer's bytes. INVALID_ARGUMENT (INVALID_REQUEST) if they are none of
  // the type.
  absl::Status ParseRequest(std::string_view bytes, google::protobuf::Message& request) const;

  // What happened to this operation's invocations. Written by the runtime, read by status.
  struct Statistics {
    std::atomic<uint64_t> admitted{0}, not_started{0};
    // The runtime thread writes these all the time, apart from what others write.
    alignas(64) SplitCount started;
    SplitCount succeeded, failed;
    LatencyHistogram queue_wait, run_time;

    uint64_t queued() const {
      const uint64_t gone = started.load() + not_started.load();
      return admitted.load() - gone;
    }
  };
  Statistics& statistics() const { return statistics_; }

  // Asks the processor for what running it will touch: among thousands of operations it is far
  // away.
  void Prefetch() const {
    __builtin_prefetch(&handler_);
    __builtin_prefetch(&statistics_.started);
    __builtin_prefetch(&statistics_.queue_wait);
    __builtin_prefetch(&statistics_.run_time);
  }

 private:
  friend class internal::OperationTask;
  friend class internal::RuntimeCore;

  // Destroys the handler; nothing calls it any more. The runtime thread.
  void DropHandler() const { handler_ = nullptr; }

  const google::protobuf::MethodDescriptor* const method_;
  const std::string name_;
  const google::protobuf::Message* const request_prototype_;
  mutable Handler handler_;  // the runtime thread only
  mutable Statistics statistics_;
};

// The operations that a runtime offers: filled by the host and its plugins, then moved into
// Runtime::Create, after which nothing is added. Not thread-safe. Operations have stable addresses.
class OperationRegistry {
 public:
  OperationRegistry() = default;
  OperationRegistry(OperationRegistry&&) = default;
  OperationRegistry& operator=(OperationRegistry&&) = default;

  // Registers `handler` as the unary method `name` (`package.Service/Method`) of a .proto whose
  // generated code is linked in. `Handler` is callable as absl::StatusOr<Reply>(OperationContext&,
  // Request).
  //
  // The handler runs on the runtime thread, one call at a time; it should return within a few
  // milliseconds. What it returns is the outcome; if it throws, the outcome is INTERNAL with the
  // exception's text. It is destroyed when
  // the runtime stops, on the runtime thread.
  //
  // NOT_FOUND: no such method is linked in. INVALID_ARGUMENT: Request or Reply is not the method's
  // type, the method streams, or the name is not of the form. ALREADY_EXISTS: registered before.
  template <typename Request, typename Reply, typename Handler>
  absl::Status Register(std::string_view name, Handler handler) {
    return Add(name, Request::descriptor(), Reply::descriptor(),
               [handler = std::move(handler)](OperationContext& context,
                                              google::protobuf::Message& request,
                                              internal::CompletionBase completion) mutable {
                 absl::StatusOr<Reply> reply =
                     handler(context, std::move(static_cast<Request&>(request)));
                 Completion<Reply>(std::move(completion)).Finish(std::move(reply));
               });
  }

  // The same for an operation that finishes later: `Handler` is callable as
  // void(OperationContext&, Request, Completion<Reply>).
  template <typename Request, typename Reply, typename Handler>
  absl::Status RegisterDeferred(std::string_view name, Handler handler) {
    return Add(name, Request::descriptor(), Reply::descriptor(),
               [handler = std::move(handler)](OperationContext& context,
                                              google::protobuf::Message& request,
                                              internal::CompletionBase completion) mutable {
                 handler(context, std::move(static_cast<Request&>(request)),
                         Completion<Reply>(std::move(completion)));
               });
  }

  // Registers a topic, on which the host publishes messages of this type: `package.Something/Word`
  // (LocalRuntimeContext::Publish, Session::Publish).
  //
  // INVALID_ARGUMENT: the name is not of the form, or the type is of no .proto that is linked in.
  // ALREADY_EXISTS: registered before.
  template <typename Message>
  absl::Status RegisterTopic(std::string_view name, TopicOptions options = {}) {
    return AddTopic(name, Message::descriptor(), options);
  }

  // By name.
  std::vector<std::shared_ptr<const Topic>> ListTopics() const;

  // Null if there is none of this name.
  const Operation* Find(std::string_view name) const;
  // By name.
  std::vector<const Operation*> List() const;

 private:
  absl::Status Add(std::string_view name, const google::protobuf::Descriptor* request,
                   const google::protobuf::Descriptor* reply, Operation::Handler handler);

  absl::Status AddTopic(std::string_view name, const google::protobuf::Descriptor* type,
                        TopicOptions options);

  std::map<std::string, std::shared_ptr<const Topic>, std::less<>> topics_;
  // By their names, which they own.
  absl::flat_hash_map<absl::string_view, std::unique_ptr<Operation>> operations_;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_OPERATION_REGISTRY_H_

#ifndef RUNLOOP_RUNTIME_OPERATION_TASK_H_
#define RUNLOOP_RUNTIME_OPERATION_TASK_H_

#include <atomic>
#include <memory>
#include <string>
#include <typeindex>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/handle_table.h"
#include "runloop/runtime/operation_registry.h"
#include "runloop/runtime/task.h"
#include "runloop/runtime/wait_chain.h"

namespace runloop::internal {

class RuntimeCore;

class OperationTask;

// Gets the outcomes of a transport's invocations; nothing is allocated for each.
class OutcomeSink {
 public:
  // `task` has its outcome, for TakeOutcome. Exactly once for each, on the thread that decided it:
  // the runtime thread, the one that finished a deferred completion, cancelled it, or stopped the
  // runtime. Must not block.
  virtual void Deliver(std::shared_ptr<OperationTask> task) = 0;

 protected:
  ~OutcomeSink() = default;
};

// What to run, and for whom.
struct OperationCall {
  const Operation* operation = nullptr;                // of the runtime's
  std::unique_ptr<google::protobuf::Message> request;  // of its generated request type
  // What the request counts for against the bounds, if it is known; else its size, serialized.
  size_t request_bytes = 0;
  std::shared_ptr<Session> session;
  // By the runtime's clock. Not started by then, it never runs; deferred then, it fails.
  absl::Time deadline = absl::InfiniteFuture();
  // From now until it joins the queue; not positive: at once.
  absl::Duration delay;
  // Not empty: takes the place of what has not started in the session with the same key. If either
  // is delayed there is no place to be taken: what is dispatched joins the queue when it is due.
  std::string coalesce_key;
  // The runtimes that wait for it; empty if none does.
  Chain chain;
  // Of the session, if its peer told it.
  CallSite call_site;
  TraceParent trace_parent;  // null: none
  // The transport's number for it, unique in the session; 0 if it has none.
  uint64_t number = 0;
  // Null is as good as a reply.
  bool reply_wanted = true;
  std::shared_ptr<OutcomeSink> sink;  // null: nobody is told
  // The sink's own number for it.
  uint64_t ticket = 0;
};

// One invocation of an operation. Shared by the queue, the completion and whoever may cancel it.
class OperationTask final : public Task, public std::enable_shared_from_this<OperationTask> {
 public:
  // Posted at `now`. The memory of tasks that were destroyed on the calling thread is used again.
  static std::shared_ptr<OperationTask> Make(std::shared_ptr<RuntimeCore> core,
                                             OperationCall&& call, absl::Time now);
  // Gives that memory back, as far as it is not in use, but for so many.
  static void TrimThread(size_t keep = 0);

  // For Make.
  OperationTask(std::shared_ptr<RuntimeCore> core, OperationCall&& call, absl::Time now);
  ~OperationTask();

  RunResult Run() override;
  void Skip(const absl::Status& why) override;
  void Release() override { queue_reference_.reset(); }

  // The queue's reference, to this, to be set just before posting.
  void HoldForQueue(std::shared_ptr<OperationTask> self) { queue_reference_ = std::move(self); }

  // Gives the outcome of one that started. The first call counts. Any thread.
  void Finish(absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply);
  // A completion went away without Finish.
  void DropCompletion();

  // Its caller gives it up. False: it has ended, or ends just now; else what it makes is released
  // when it ends. Any thread.
  bool TryGiveUp();
  // It has ended, and nobody will look at its reply: releases what it made. Any thread.
  void ReleaseMade();

  // Keeps an object for the session. The runtime thread. ABORTED if this has ended, and those of
  // HandleTable::Add; the object is closed then.
  absl::StatusOr<Handle> Keep(std::unique_ptr<HeldObject> object, std::type_index type);

  RuntimeCore& core() const { return *core_; }

  // ---- for its sink ----

  uint64_t ticket() const { return ticket_; }
  uint64_t number() const { return number_.load(std::memory_order_relaxed); }
  absl::StatusOr<std::unique_ptr<google::protobuf::Message>>& outcome() { return outcome_; }
  absl::StatusOr<std::unique_ptr<google::protobuf::Message>> TakeOutcome() {
    return std::move(outcome_);
  }
  // The request, as the handler has left it, to be used again; null if it is in use or was large.
  std::unique_ptr<google::protobuf::Message> TakeRequest();
  // The sink's, from Deliver on, to keep it in a list.
  OperationTask* next_delivered = nullptr;
  size_t outcome_bytes = 0;
  std::shared_ptr<OperationTask> kept;

  // False: nobody looks at the reply.
  bool reply_wanted() const { return reply_wanted_; }

 private:
  // What becomes of the objects that it makes.
  enum class Fate : uint8_t { kWanted, kGivenUp, kEnded };

  void Deliver(absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply);

  // First what changes while it runs, then what does not.
  std::unique_ptr<google::protobuf::Message> request_;
  absl::StatusOr<std::unique_ptr<google::protobuf::Message>> outcome_;  // its sink's
  std::shared_ptr<OperationTask> queue_reference_;                      // the queue's
  std::atomic<Fate> fate_{Fate::kWanted};
  std::atomic<bool> delivered_{false};
  std::atomic<bool> handler_returned_{false};  // and the request is its sink's
  // The runtime thread only. A completion that the handler's own frames drop waits for what the
  // handler does next: if it is throwing, the exception is the outcome.
  bool in_handler_ = false;
  bool dropped_in_handler_ = false;

  const bool reply_wanted_;
  const uint64_t ticket_;
  // In the session; the runtime thread gives one where the transport has none.
  std::atomic<uint64_t> number_;
  const std::shared_ptr<RuntimeCore> core_;
  const std::shared_ptr<OutcomeSink> sink_;
  const std::string coalesce_key_;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_OPERATION_TASK_H_

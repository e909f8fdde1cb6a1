#ifndef RUNLOOP_TESTS_TESTING_REMOTE_SESSION_H_
#define RUNLOOP_TESTS_TESTING_REMOTE_SESSION_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/test_operations.h"

namespace runloop {

// A session as a transport has it, without a transport: for tests of the runtime alone.
class RemoteSession {
 public:
  using Message = std::unique_ptr<google::protobuf::Message>;

  // One dispatch and its outcome. Thread-safe.
  class Call {
   public:
    // Blocks until the outcome is there.
    absl::Status Await() const { return outcome_->Await(); }
    template <typename Reply>
    Reply Take() const {
      (void)Await();
      return static_cast<Reply&>(*outcome_->Take());
    }
    bool done() const { return outcome_->done(); }
    // Null if it was refused.
    const std::shared_ptr<internal::OperationTask>& task() const { return task_; }

   private:
    friend class RemoteSession;

    class Outcome final : public internal::OutcomeSink {
     public:
      void Deliver(std::shared_ptr<internal::OperationTask> task) override {
        Finish(task->TakeOutcome());
      }
      void Finish(absl::StatusOr<Message> outcome) {
        absl::MutexLock lock(&mutex_);
        status_ = outcome.status();
        if (outcome.ok()) reply_ = *std::move(outcome);
        done_ = true;
      }
      absl::Status Await() const {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(&done_));
        return status_;
      }
      Message Take() {
        absl::MutexLock lock(&mutex_);
        return std::move(reply_);
      }
      bool done() const {
        absl::MutexLock lock(&mutex_);
        return done_;
      }

     private:
      mutable absl::Mutex mutex_;
      bool done_ ABSL_GUARDED_BY(mutex_) = false;
      absl::Status status_ ABSL_GUARDED_BY(mutex_);
      Message reply_ ABSL_GUARDED_BY(mutex_);
    };

    const std::shared_ptr<Outcome> outcome_ = std::make_shared<Outcome>();
    std::shared_ptr<internal::OperationTask> task_;
  };

  explicit RemoteSession(Runtime& runtime, PeerIdentity peer = {.pid = 100, .uid = 1000})
      : core_(runtime.core()),
        session_(core_->OpenSession(
            {.client_name = "test", .peer = std::move(peer), .transport = "stream"})) {}

  // `call` may hold a deadline, a key, a chain, a number.
  template <typename Request>
  std::shared_ptr<Call> Dispatch(std::string_view operation, Request request,
                                 internal::RuntimeCore::Call call = {}) {
    auto made = std::make_shared<Call>();
    call.operation = *core_->FindOperation(operation);
    call.request = std::make_unique<Request>(std::move(request));
    call.session = session_;
    call.sink = made->outcome_;
    absl::StatusOr<std::shared_ptr<internal::OperationTask>> task =
        core_->Dispatch(std::move(call));
    if (task.ok()) {
      made->task_ = *std::move(task);
    } else {
      made->outcome_->Finish(task.status());
    }
    return made;
  }

  internal::RuntimeCore& core() { return *core_; }
  const std::shared_ptr<Session>& operator->() const { return session_; }
  Session& operator*() const { return *session_; }

 private:
  const std::shared_ptr<internal::RuntimeCore> core_;
  const std::shared_ptr<Session> session_;
};

}  // namespace runloop

#endif  // RUNLOOP_TESTS_TESTING_REMOTE_SESSION_H_

#ifndef RUNLOOP_TESTS_SEQUENCE_DRIVER_H_
#define RUNLOOP_TESTS_SEQUENCE_DRIVER_H_

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/external_loop.h"
#include "runloop/runtime/runtime.h"
#include "runloop/runtime/subscription.h"
#include "runloop/test/v1/test_operations.pb.h"
#include "runloop/test/v1/test_topics.pb.h"
#include "runloop/tests/sequence/message_server.h"
#include "runloop/tests/sequence/message_session.h"
#include "runloop/tests/sequence/observed.h"
#include "runloop/tests/sequence/other_thread.h"
#include "runloop/tests/sequence/run_program.h"
#include "runloop/tests/sequence/script.h"
#include "runloop/tests/sequence/settling_clock.h"
#include "runloop/tests/sequence/transport.h"

namespace runloop::sequence {

// Plays one program on a runtime of its own (run_program.h): what the script says is to be done, it
// does; what the model says must come of it, it compares with what came. One thread, the runtime's,
// but for what a step has done on another.
class Driver {
 public:
  Driver(const Program& program, Transport transport, OtherThread& other, Coverage& coverage,
         std::vector<std::string>* listing);

  std::optional<Failure> Run();

 private:
  void Play(size_t number, const Step& step);
  void Do(size_t number, const std::vector<Action>& actions);
  // How many of the first ones go in one message.
  size_t CountTogether(absl::Span<const Action> actions) const;
  // One, or several that go in one message.
  void Perform(absl::Span<const Action> actions);
  void Call(const Action& action);
  // The runtime has stopped: lets go of everything.
  void LeaveNothing();
  void List(size_t step, const std::vector<Action>& actions);

  internal::RuntimeCore& core() { return *runtime_->core(); }
  Reference& reference() { return script_.reference(); }
  const Reference& reference() const { return script_.reference(); }

  void Expect(bool holds, const std::string& what) {
    if (!holds) observed_.Fail(what);
  }
  void ExpectAnswer(const Action& action, const std::string& answer);

  // ---- what operations and closures do (driver_handlers.cc) ----

  void RegisterOperations(OperationRegistry& registry);
  // While a handler or closure runs: first what others do meanwhile.
  struct Running {
    Running(Driver& driver, int id);
    ~Running() { driver.observed_.Returns(); }
    Driver& driver;
  };
  absl::Status Behave(OperationContext& context, int id);
  // `keeper` is an OperationContext or a Completion.
  template <typename Keeper>
  absl::Status Keep(Keeper& keeper, int object);
  Handle HandleOf(int object) const;
  void Complete(const Action& action);

  // ---- steps as calls of the runtime (driver_calls.cc) ----

  void Open(const Action& action);
  // As the host does it.
  void BeginDrain(absl::Duration left);
  int SessionOf(int invocation) { return reference().invocation(invocation).session; }
  // As a transport numbers them: in process it does not.
  uint64_t NumberOf(int invocation);
  static std::string_view NameOf(const Reference::Invocation& invocation);
  std::unique_ptr<google::protobuf::Message> NewRequest(
      const Reference::Invocation& invocation) const;
  internal::RuntimeCore::Call CallOf(int invocation);
  void Dispatch(const Action& action);
  void PostClosure(const Action& action);
  void Deliver(internal::OperationTask& task);
  void ExpectReply(int id, const google::protobuf::Message& reply);

  // ---- steps as messages (driver_messages.cc) ----

  // False: it is no message.
  bool CallByMessage(absl::Span<const Action> actions, MessageSession& messages);
  void DispatchByMessage(absl::Span<const Action> actions, MessageSession& messages);
  void FillDispatch(int id, v1::Dispatch& dispatch);
  // The outcome that it has because of that; empty: none.
  std::string CancelByMessage(int id, bool give_up, MessageSession& messages);
  // What is told because of `request`, by invocation.
  std::map<int, std::string> Say(MessageSession& messages, const v1::SessionRequest& request);
  void Heard(const std::vector<MessageSession::Outcome>& outcomes);
  void HearOf(MessageSession& messages);
  void HearAll();
  void ExpectReply(int id, const MessageSession::Outcome& outcome);

  // ---- batches, by calls and as messages (driver_batches.cc) ----

  void DispatchBatch(const Action& action);
  void DispatchBatchByMessage(const Action& action, MessageSession& messages);
  // ---- notifications (driver_notifications.cc) ----

  void RegisterTopics(OperationRegistry& registry);
  internal::SubscriptionState::Call NewSubscription(const Action& action);
  void Subscribe(const Action& action);
  void SubscribeByMessage(const Action& action, MessageSession& messages);
  void Unsubscribe(const Action& action);
  void UnsubscribeByMessage(const Action& action, MessageSession& messages);
  // To all, or to one session. Workers hear of it.
  absl::Status PublishItems(const Publication& publication, const Session* only);
  void Publish(const Action& action);
  void Take(const Action& action);
  // Those that have ended have got nothing since.
  void LeaveSubscriptions();
  void CompareNotifications(const Runtime::Snapshot& snapshot);
  void CompareDelivered();

  // ---- what came of it, and what the model says (driver_compare.cc) ----

  void Compare();
  void CompareOutcomes(const std::map<int, std::string>& expected,
                       const std::map<int, std::string>& seen);
  void CompareCounts();
  void Same(const std::string& what, const std::string& model, const std::string& runtime);

  const Program& program_;
  OtherThread& other_;
  Script script_;
  std::vector<std::string>* const listing_;

  // Outlive the runtime, which tells them to the last.
  Observed observed_;
  SettlingClock clock_;
  int closures_alive_ = 0;
  Duties duties_;
  std::map<int, Completion<test::v1::RecordReply>> completions_;
  std::map<int, Handle> handles_;
  // Of all invocations: by their tickets.
  class Sink final : public internal::OutcomeSink {
   public:
    explicit Sink(Driver& driver) : driver_(driver) {}
    void Deliver(std::shared_ptr<internal::OperationTask> task) override { driver_.Deliver(*task); }

   private:
    Driver& driver_;
  };
  const std::shared_ptr<Sink> sink_ = std::make_shared<Sink>(*this);
  std::map<int, std::shared_ptr<internal::OperationTask>> tasks_;
  std::map<int, Timer> timers_;
  std::vector<std::shared_ptr<Session>> sessions_;
  struct Subscribed {
    explicit Subscribed(std::shared_ptr<internal::SubscriptionState> its)
        : state(std::move(its)), held(state) {}
    std::shared_ptr<internal::SubscriptionState> state;
    std::optional<Subscription<test::v1::Item>> held;
  };
  std::map<int, Subscribed> subscriptions_;

  ExternalLoop* loop_;  // the runtime's
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<MessageServer> server_;  // null: all is by calls
  // By session, of those that have a worker.
  std::map<int, std::unique_ptr<MessageSession>> messages_;
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_DRIVER_H_

#ifndef RUNLOOP_TESTS_SEQUENCE_SCRIPT_H_
#define RUNLOOP_TESTS_SEQUENCE_SCRIPT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runloop/tests/sequence/coverage.h"
#include "runloop/tests/sequence/program.h"
#include "runloop/tests/sequence/reference.h"
#include "runloop/tests/sequence/transport.h"

namespace runloop::sequence {

// Items that are published, one after the other.
struct Publication {
  bool latest = false;
  int first = kNone;
  int count = 0;
  int item_bytes = 0;
};

// A step once it is known what it works on: one call of the runtime, and what that must answer.
// Which fields count depends on the kind. What a dispatch does is in Reference::invocation, what an
// object is in Reference::object.
struct Action {
  StepKind kind = StepKind::kRun;
  int session = kNone;
  int invocation = kNone;
  int object = kNone;
  int subscription = kNone;
  bool elsewhere = false;
  bool worker_goes = false;   // what ends the session
  bool work_is_done = false;  // then: why it goes
  bool had_ended = false;     // the subscription, with its session
  OutcomeKind given_up_as = OutcomeKind::kCancelled;
  bool stop_at_failure = false;
  Flaw flaw = Flaw::kNone;
  Completing completing = Completing::kSucceed;
  Millis time = 0;
  int count = 0;
  Cut cut = Cut::kNone;
  Room room = Room::kAmple;
  Publication publication;
  std::string answer;
};

// Turns the steps of a program into actions by playing them on the reference model, one step ahead
// of the runtime.
class Script {
 public:
  Script(const Setup& setup, Transport transport, Coverage& coverage);

  // What to do now, in this order.
  std::vector<Action> Play(const Step& step);
  // What to do when `invocation` has started, before it does anything of its own.
  const std::vector<Action>& Meanwhile(int invocation) const;

  // Takes all that has come for subscriptions, at the end.
  std::vector<Action> TakeAll();

  Reference& reference() { return reference_; }
  const Reference& reference() const { return reference_; }
  // Counts how everything ended.
  void CountOutcomes();

 private:
  void Resolve(const Step& step, std::vector<Action>& actions);

  // ---- work (script_work.cc) ----
  Step PrepareWork(const Step& step) const;
  std::string Answer(const std::string& answer, const char* row);
  // The cell of a refusal, whoever the user is.
  static std::string_view RefusalCell(const std::string& answer);
  void Dispatch(const Step& step, std::vector<Action>& actions);
  void Fill(const Step& step, std::vector<Action>& actions);

  // ---- batches, and whose turn it is (script_batches.cc) ----
  void Batch(const Step& step, std::vector<Action>& actions);
  void CountTurns();
  void CountStopped(const Reference::Invocation& stopped);

  // ---- what was handed over, and what it has made (script_invocations.cc) ----
  void Cancel(const Step& step, std::vector<Action>& actions);
  void GiveUp(const Step& step, std::vector<Action>& actions);
  void Forget(const Step& step, std::vector<Action>& actions);
  void CancelTimer(const Step& step, std::vector<Action>& actions);
  void Complete(const Step& step, std::vector<Action>& actions);
  void FinishClosing(const Step& step, std::vector<Action>& actions);

  // ---- sessions (script_sessions.cc) ----
  void Open(const Step& step, std::vector<Action>& actions);
  void Kill(const Step& step, std::vector<Action>& actions);
  void Disconnect(const Step& step, std::vector<Action>& actions);
  // Those that were to end once they are idle, and are.
  void EndIdle(std::vector<Action>& actions);
  void CutConnection(const Step& step, std::vector<Action>& actions);

  // ---- notifications (script_notifications.cc) ----
  void Subscribe(const Step& step, std::vector<Action>& actions);
  void Unsubscribe(const Step& step, std::vector<Action>& actions);
  void Publish(const Step& step, std::vector<Action>& actions);
  void CountPublish(const Step& step, int only, const std::string& answer);
  void Take(const Step& step, std::vector<Action>& actions);
  void Take(int subscription, int count, bool elsewhere, std::vector<Action>& actions);
  bool CanSubscribe(int session) const;
  // Most often one that has subscribed.
  int PickSubscriber(const Step& step) const;
  int PickSubscription(const Step& step,
                       const std::function<bool(const Reference::Subscription&)>& wanted) const;

  // ---- the runtime (script_runtime.cc) ----
  void Advance(const Step& step, std::vector<Action>& actions);
  void Run(const Step& step, std::vector<Action>& actions);
  void BeginDrain(const Step& step, std::vector<Action>& actions);
  void Drain(const Step& step, std::vector<Action>& actions);
  void Stop(std::vector<Action>& actions);

  // ---- what a step works on (script_picks.cc) ----
  // kNone: there is nothing.
  static int Pick(const std::vector<int>& among, uint32_t pick);
  int PickSession(const Step& step) const;
  // Somebody can ask for something to be done with it.
  bool HasAsker(const Reference::Invocation& invocation) const;
  int PickInvocation(const Step& step,
                     const std::function<bool(const Reference::Invocation&)>& wanted) const;
  // Such a handle as `step` wants, in `session`; and a session that has one.
  int PickHandle(const Step& step, int session) const;
  int PickOwner(const Step& step) const;

  const Transport transport_;
  Coverage& coverage_;
  Reference reference_;
  std::map<int, std::vector<Action>> meanwhile_;
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_SCRIPT_H_

#include "runloop/tests/sequence/script.h"

#include <string_view>
#include <utility>

#include "runloop/tests/sequence/describe.h"

namespace runloop::sequence {
namespace {

using Invocation = Reference::Invocation;
using State = Reference::State;

}  // namespace

Script::Script(const Setup& setup, Transport transport, Coverage& coverage)
    : transport_(transport), coverage_(coverage), reference_(setup, [this](int started) {
        for (const Step& step : reference_.invocation(started).step.meanwhile) {
          std::vector<Action> actions;
          Resolve(step, actions);
          meanwhile_[started] = std::move(actions);
        }
      }) {}

std::vector<Action> Script::Play(const Step& step) {
  std::vector<Action> actions;
  Resolve(step, actions);
  EndIdle(actions);
  CountTurns();
  // What a cut takes with it comes after it.
  if (step.kind != StepKind::kCut) reference_.HearAll();
  return actions;
}

const std::vector<Action>& Script::Meanwhile(int invocation) const {
  static const auto* const nothing = new std::vector<Action>();
  const auto found = meanwhile_.find(invocation);
  return found == meanwhile_.end() ? *nothing : found->second;
}

void Script::Resolve(const Step& step, std::vector<Action>& actions) {
  switch (step.kind) {
    case StepKind::kOpen:
      return Open(step, actions);
    case StepKind::kDispatch:
    case StepKind::kClosure:
      return Dispatch(step, actions);
    case StepKind::kBatch:
      return Batch(step, actions);
    case StepKind::kFill:
      return Fill(step, actions);
    case StepKind::kCancelTimer:
      return CancelTimer(step, actions);
    case StepKind::kCancel:
      return Cancel(step, actions);
    case StepKind::kGiveUp:
      return GiveUp(step, actions);
    case StepKind::kForget:
      return Forget(step, actions);
    case StepKind::kKill:
      return Kill(step, actions);
    case StepKind::kDisconnect:
      return Disconnect(step, actions);
    case StepKind::kCut:
      return CutConnection(step, actions);
    case StepKind::kSubscribe:
      return Subscribe(step, actions);
    case StepKind::kUnsubscribe:
      return Unsubscribe(step, actions);
    case StepKind::kPublish:
      return Publish(step, actions);
    case StepKind::kTake:
      return Take(step, actions);
    case StepKind::kComplete:
      return Complete(step, actions);
    case StepKind::kFinishClosing:
      return FinishClosing(step, actions);
    case StepKind::kAdvance:
      return Advance(step, actions);
    case StepKind::kRun:
      return Run(step, actions);
    case StepKind::kBeginDrain:
      return BeginDrain(step, actions);
    case StepKind::kDrain:
      return Drain(step, actions);
    case StepKind::kStop:
      return Stop(actions);
  }
}

void Script::CountOutcomes() {
  for (const auto& [fate, count] : reference_.fates()) {
    coverage_.Count("a notification", fate, count);
  }
  for (const Invocation& ended : reference_.invocations()) {
    if (ended.state != State::kEnded) continue;
    coverage_.Count(KindOf(ended), ended.how);
    if (ended.stopped_by != kNone) CountStopped(ended);
    const bool use = ended.step.behaviour == Behaviour::kUse;
    if (!use && ended.step.behaviour != Behaviour::kRelease) continue;
    const std::string_view how = ended.how;
    const bool found = how == "succeeded" || how == "took too long to close";
    if (!found && how != "unknown handle") continue;
    const char* const row = use ? "handle to use" : "handle to release";
    if (ended.object == kNone) {
      coverage_.Count(row, "never given: unknown");
    } else if (ended.step.whose == Whose::kStale) {
      coverage_.Count(row, "stale: unknown");
    } else if (ended.step.whose == Whose::kOtherSessions) {
      coverage_.Count(row, "another session's: unknown");
    } else if (use && ended.step.whose == Whose::kOfOtherType) {
      coverage_.Count(row, "of another type: unknown");
    } else {
      coverage_.Count(row, found ? "own: found" : "own: gone by then");
    }
  }
}

}  // namespace runloop::sequence

// Steps that do something with work that was handed over, and with what it has made.

#include <algorithm>
#include <string_view>

#include "absl/strings/match.h"
#include "runloop/tests/sequence/script.h"

namespace runloop::sequence {
namespace {

using Invocation = Reference::Invocation;
using Object = Reference::Object;
using Session = Reference::Session;
using State = Reference::State;

}  // namespace

void Script::Cancel(const Step& step, std::vector<Action>& actions) {
  const int invocation =
      PickInvocation(step, [this](const Invocation& known) { return HasAsker(known); });
  if (invocation == kNone) return;
  const State was = reference_.invocation(invocation).state;
  coverage_.Count("cancel", was == State::kDelayed    ? "delayed: ends it"
                            : was == State::kQueued   ? "queued: ends it"
                            : was == State::kRunning  ? "running: too late"
                            : was == State::kDeferred ? "deferred: too late"
                                                      : "ended: too late");
  const bool cancelled = reference_.Cancel(invocation);
  actions.push_back({.kind = step.kind,
                     .invocation = invocation,
                     .elsewhere = step.elsewhere,
                     .answer = cancelled ? "it never runs" : "it had started"});
}

void Script::GiveUp(const Step& step, std::vector<Action>& actions) {
  const int invocation =
      PickInvocation(step, [this](const Invocation& known) { return HasAsker(known); });
  if (invocation == kNone) return;
  const bool by_messages =
      reference_.session(reference_.invocation(invocation).session).by_messages;
  const OutcomeKind as =
      step.pick_more % 2 == 0 || by_messages ? OutcomeKind::kCancelled : OutcomeKind::kExpired;
  const State was = reference_.GiveUp(invocation, as);
  coverage_.Count("give up", was == State::kDelayed    ? "delayed: ends it"
                             : was == State::kQueued   ? "queued: ends it"
                             : was == State::kRunning  ? "running"
                             : was == State::kDeferred ? "deferred"
                                                       : "ended: too late");
  actions.push_back({.kind = step.kind,
                     .invocation = invocation,
                     .elsewhere = step.elsewhere,
                     .given_up_as = as,
                     .answer = was == State::kQueued || was == State::kDelayed ? "it never runs"
                               : was == State::kEnded                          ? "it has ended"
                                                                               : "it still runs"});
}

void Script::Forget(const Step& step, std::vector<Action>& actions) {
  const auto made_something = [&](const Invocation& known) {
    if (known.state != State::kEnded || !HasAsker(known)) return false;
    const auto& objects = reference_.session(known.session).objects;
    return step.pick_more % 4 == 0 || std::any_of(objects.begin(), objects.end(), [&](int object) {
             return reference_.object(object).maker == known.id;
           });
  };
  const int invocation = PickInvocation(step, made_something);
  if (invocation == kNone) return;
  const Session& session = reference_.session(reference_.invocation(invocation).session);
  const size_t before = session.given_up.size();
  reference_.Forget(invocation);
  coverage_.Count("forget a result", session.given_up.size() > before
                                         ? "releases objects"
                                         : "made nothing that is left");
  actions.push_back({.kind = step.kind, .invocation = invocation, .elsewhere = step.elsewhere});
}

void Script::CancelTimer(const Step& step, std::vector<Action>& actions) {
  std::vector<int> waiting, all;
  for (const Invocation& known : reference_.invocations()) {
    if (known.session != kNone || known.step.delay == 0 || known.state == State::kRefused) continue;
    all.push_back(known.id);
    if (known.state != State::kEnded) waiting.push_back(known.id);
  }
  int timer = Pick(waiting.empty() || step.pick % 8 == 0 ? all : waiting, step.pick / 8);
  // Now and then while it runs.
  const int running = reference_.running();
  if (step.pick_more % 5 != 0 && std::find(all.begin(), all.end(), running) != all.end()) {
    timer = running;
  }
  if (timer == kNone) return;
  const State was = reference_.invocation(timer).state;
  coverage_.Count("cancel a timer", was == State::kDelayed   ? "delayed: ends it"
                                    : was == State::kQueued  ? "queued: ends it"
                                    : was == State::kRunning ? "running: too late"
                                                             : "ended: too late");
  const bool cancelled = reference_.CancelTimer(timer, step.elsewhere);
  actions.push_back({.kind = step.kind,
                     .invocation = timer,
                     .elsewhere = step.elsewhere,
                     .answer = cancelled ? "it never runs" : "it had started"});
}

void Script::Complete(const Step& step, std::vector<Action>& actions) {
  const int invocation =
      PickInvocation(step, [](const Invocation& known) { return known.has_completion; });
  if (invocation == kNone) return;
  const bool late = reference_.invocation(invocation).state == State::kEnded;
  const auto [answer, object] = reference_.Complete(invocation, step.completing, step.closes);
  constexpr std::string_view kHow[] = {"succeeds", "fails", "drops"};
  coverage_.Count(late ? "complete late" : "complete",
                  step.completing != Completing::kMake ? kHow[static_cast<int>(step.completing)]
                  : absl::StrContains(answer, "HANDLES_FULL") ? "makes: handles full"
                  : late                                      ? "makes: closed"
                                                              : "makes: kept");
  actions.push_back({.kind = step.kind,
                     .invocation = invocation,
                     .object = object,
                     // Objects are made on the runtime thread.
                     .elsewhere = step.elsewhere && step.completing != Completing::kMake,
                     .completing = step.completing,
                     .answer = answer});
}

void Script::FinishClosing(const Step& step, std::vector<Action>& actions) {
  std::vector<int> closing;
  for (const Object& object : reference_.objects()) {
    if (object.may_say_closed) closing.push_back(object.id);
  }
  const int object = Pick(closing, step.pick);
  if (object == kNone) return;
  coverage_.Count("say closed",
                  reference_.object(object).state == Object::State::kGone ? "late" : "in time");
  reference_.FinishClosing(object);
  actions.push_back({.kind = step.kind, .object = object, .elsewhere = step.elsewhere});
}

}  // namespace runloop::sequence

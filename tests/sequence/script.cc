#include "runloop/tests/sequence/script.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runloop/tests/sequence/describe.h"

namespace runloop::sequence {
namespace {

using Invocation = Reference::Invocation;
using Object = Reference::Object;
using Session = Reference::Session;
using State = Reference::State;

int Pick(const std::vector<int>& among, uint32_t pick) {
  return among.empty() ? kNone : among[pick % among.size()];
}

// The cell of a refusal, whoever the user is.
std::string_view RefusalCell(const std::string& answer) {
  struct Known {
    std::string_view text, cell;
  };
  static constexpr Known kKnown[] = {{"DRAINING", "refused: draining"},
                                     {"RUNTIME_STOPPED", "refused: stopped"},
                                     {"SESSION_ENDED", "refused: session ended"}};
  for (const Known& known : kKnown) {
    if (answer.find(known.text) != std::string::npos) return known.cell;
  }
  const bool bytes = absl::EndsWith(answer, " bytes");
  if (absl::StrContains(answer, ": session")) {
    return bytes ? "refused: session, bytes" : "refused: session, invocations";
  }
  if (absl::StrContains(answer, ": runtime")) {
    return bytes ? "refused: runtime, bytes" : "refused: runtime, invocations";
  }
  return bytes ? "refused: user, bytes" : "refused: user, invocations";
}

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
  return actions;
}

const std::vector<Action>& Script::Meanwhile(int invocation) const {
  static const auto* const nothing = new std::vector<Action>();
  const auto found = meanwhile_.find(invocation);
  return found == meanwhile_.end() ? *nothing : found->second;
}

void Script::CountOutcomes() {
  for (const Invocation& ended : reference_.invocations()) {
    if (ended.state != State::kEnded) continue;
    coverage_.Count(KindOf(ended), ended.how);
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

// ---- what a step works on ----

int Script::PickSession(const Step& step) const {
  std::vector<int> open, all;
  for (const Session& session : reference_.sessions()) {
    all.push_back(session.id);
    if (!session.ended && !session.disconnecting) open.push_back(session.id);
  }
  // Now and then somebody works with a session that is over.
  return Pick(open.empty() || step.pick % 16 == 0 ? all : open, step.pick / 16);
}

int Script::PickInvocation(const Step& step,
                           const std::function<bool(const Invocation&)>& wanted) const {
  const State state = step.aim == Aim::kQueued     ? State::kQueued
                      : step.aim == Aim::kDeferred ? State::kDeferred
                      : step.aim == Aim::kRunning  ? State::kRunning
                                                   : State::kEnded;
  std::vector<int> aimed, all;
  for (const Invocation& known : reference_.invocations()) {
    // Nobody has a name for a closure, nor for what was refused.
    if (known.session == kNone || known.state == State::kRefused || !wanted(known)) continue;
    all.push_back(known.id);
    if (known.state == state || (state == State::kQueued && known.state == State::kDelayed)) {
      aimed.push_back(known.id);
    }
  }
  return Pick(aimed.empty() ? all : aimed, step.pick);
}

bool Script::HasAsker(const Invocation& invocation) const {
  return !reference_.session(invocation.session).gone;
}

int Script::PickOwner(const Step& step) const {
  std::vector<int> owners;
  for (const Session& session : reference_.sessions()) {
    if (session.ended || session.disconnecting) continue;
    if (PickHandle(step, session.id) != kNone) owners.push_back(session.id);
  }
  return Pick(owners, step.pick / 16);
}

int Script::PickHandle(const Step& step, int session) const {
  std::vector<int> handles;
  for (const Object& object : reference_.objects()) {
    if (!object.has_handle) continue;
    const bool held = object.state == Object::State::kHeld;
    const bool own = object.session == session;
    const bool wanted = step.whose == Whose::kOtherSessions ? held && !own
                        : step.whose == Whose::kStale       ? !held && own
                                                            : held && own;
    if (wanted) handles.push_back(object.id);
  }
  return Pick(handles, step.pick_more);
}

Step Script::PrepareWork(const Step& step) const {
  Step work = step;
  const bool defers =
      step.behaviour == Behaviour::kDefer || step.behaviour == Behaviour::kMakeAndDefer;
  const bool takes_time =
      !step.meanwhile.empty() && step.meanwhile.front().kind == StepKind::kAdvance;
  // Whether a deadline that has passed by then is noticed before the next task starts is nobody's
  // promise.
  if (defers && takes_time) work.deadline = 0;
  // In a flood a slice may run some closures more than its time allows (DrainBudget).
  if (step.kind == StepKind::kClosure && step.delay == 0 && takes_time) work.meanwhile.clear();
  // Of several that expire at the same moment, each given up and each with objects to release, no
  // order is promised.
  if (step.behaviour == Behaviour::kMakeAndDefer) work.deadline = 0;
  // The runtime's own operation: nobody can do anything in the middle of it.
  if (step.behaviour == Behaviour::kRelease) work.meanwhile.clear();
  if (transport_ != Transport::kLocal) work.bytes = std::max(work.bytes, kLeastRequestBytes);
  return work;
}

std::string Script::Answer(const std::string& answer, const char* row) {
  coverage_.Count(row, answer == "queued" ? "queued" : RefusalCell(answer));
  return answer;
}

// ---- one kind of step after another ----

void Script::Resolve(const Step& step, std::vector<Action>& actions) {
  switch (step.kind) {
    case StepKind::kOpen:
      return Open(step, actions);
    case StepKind::kDispatch:
    case StepKind::kClosure:
      return Dispatch(step, actions);
    case StepKind::kFill:
      return Fill(step, actions);
    case StepKind::kKill:
      return Kill(step, actions);
    case StepKind::kComplete:
      return Complete(step, actions);
    case StepKind::kAdvance:
      return Advance(step, actions);
    case StepKind::kRun:
      return Run(step, actions);
    case StepKind::kDrain:
      return Drain(step, actions);
    case StepKind::kStop:
      return Stop(actions);
    case StepKind::kBeginDrain:
      coverage_.Count("begin to drain", reference_.draining() ? "again" : "first");
      reference_.BeginDrain();
      actions.push_back({.kind = step.kind, .elsewhere = step.elsewhere});
      return;
    case StepKind::kCut: {
      const int session = PickSession(step);
      if (session == kNone) return;
      const int what = static_cast<int>(step.pick_more % 3);
      coverage_.Count("cut", what == 0 ? "a request is lost" : "responses are lost");
      actions.push_back({.kind = step.kind, .session = session, .count = what});
      return;
    }
    case StepKind::kDisconnect: {
      const int session = PickSession(step);
      if (session == kNone || reference_.session(session).ended) return;
      coverage_.Count("disconnect",
                      reference_.session(session).idle() ? "idle" : "work unfinished");
      reference_.Disconnect(session);
      if (reference_.session(session).by_messages) {
        actions.push_back({.kind = step.kind, .session = session, .elsewhere = step.elsewhere});
      }
      return;
    }
    case StepKind::kCancel: {
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
      return;
    }
    case StepKind::kGiveUp: {
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
      return;
    }
    case StepKind::kCancelTimer:
      return CancelTimer(step, actions);
    case StepKind::kForget: {
      const auto made_something = [&](const Invocation& known) {
        if (known.state != State::kEnded || !HasAsker(known)) return false;
        const auto& objects = reference_.session(known.session).objects;
        return step.pick_more % 4 == 0 ||
               std::any_of(objects.begin(), objects.end(),
                           [&](int object) { return reference_.object(object).maker == known.id; });
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
      return;
    }
    case StepKind::kFinishClosing: {
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
      return;
    }
  }
}

void Script::Open(const Step& step, std::vector<Action>& actions) {
  if (reference_.stopped()) return;  // a transport opens no session then
  coverage_.Count("open", reference_.draining() ? "while draining" : "opened");
  const int session = reference_.Open(static_cast<int>(step.pick_more % 8 / 2));
  if (transport_ != Transport::kLocal && !reference_.session(session).in_process()) {
    reference_.SpeakByMessages(session);
    // A daemon that drains opens no stream: nobody has it.
    if (reference_.draining()) reference_.Leave(session);
  }
  actions.push_back({.kind = step.kind, .session = session, .elsewhere = step.elsewhere});
}

void Script::Dispatch(const Step& step, std::vector<Action>& actions) {
  const bool closure = step.kind == StepKind::kClosure;
  const Step work = PrepareWork(step);
  int session = closure ? kNone : PickSession(step);
  if (!closure && session == kNone) return;
  int object = kNone;
  if (step.behaviour == Behaviour::kUse || step.behaviour == Behaviour::kRelease) {
    // Mostly of a session that has such a handle, now and then a number made up.
    const int owner = step.pick % 8 == 0 ? kNone : PickOwner(step);
    if (owner != kNone) session = owner;
    object = PickHandle(step, session);
  }
  const bool replaces = reference_.Keyed(session, work.key) != kNone;
  const std::string answer =
      Answer(reference_.Dispatch(session, work, object), closure ? "post a closure" : "dispatch");
  if (replaces && answer == "queued") coverage_.Count("dispatch", "takes another's place");
  if (work.delay > 0 && answer == "queued") {
    coverage_.Count(closure ? "post a closure" : "dispatch", "with a delay");
  }
  actions.push_back({.kind = step.kind,
                     .session = session,
                     .invocation = reference_.invocations().back().id,
                     .elsewhere = step.elsewhere,
                     .answer = answer});
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

void Script::Fill(const Step& step, std::vector<Action>& actions) {
  const int chosen = PickSession(step);
  std::vector<int> sessions;
  for (const Session& session : reference_.sessions()) {
    if (session.ended || session.disconnecting) continue;
    if (step.fill_with == FillWith::kOneSession && session.id != chosen) continue;
    if (step.fill_with == FillWith::kOneUser && session.user != reference_.session(chosen).user) {
      continue;
    }
    sessions.push_back(session.id);
  }
  const bool closures = step.fill_with == FillWith::kClosures;
  if (closures) sessions = {kNone};
  if (sessions.empty()) return;
  Step asked;
  asked.kind = closures ? StepKind::kClosure : StepKind::kDispatch;
  asked.bytes = step.bytes;
  if (!closures) asked.deadline = step.deadline;
  const Step plain = PrepareWork(asked);
  for (size_t turn = 0;; ++turn) {
    const int session = sessions[turn % sessions.size()];
    const std::string answer = reference_.Dispatch(session, plain, kNone);
    actions.push_back({.kind = plain.kind,
                       .session = session,
                       .invocation = reference_.invocations().back().id,
                       .answer = answer});
    if (answer == "queued") continue;
    coverage_.Count("fill", RefusalCell(answer));
    return;
  }
}

void Script::Kill(const Step& step, std::vector<Action>& actions) {
  int session = PickSession(step);
  // Most interesting while it runs.
  const int running = reference_.running();
  if (running != kNone && step.aim != Aim::kQueued) {
    session = reference_.invocation(running).session;
  }
  if (session == kNone) return;
  const Session& of = reference_.session(session);
  const auto has = [&](State state) {
    return std::any_of(
        reference_.invocations().begin(), reference_.invocations().end(),
        [&](const Invocation& known) { return known.session == session && known.state == state; });
  };
  if (reference_.stopped()) {
    coverage_.Count("kill", "after the stop");
  } else if (of.ended) {
    coverage_.Count("kill", "again");
  } else {
    if (of.idle()) coverage_.Count("kill", "idle");
    if (has(State::kDelayed)) coverage_.Count("kill", "work delayed");
    if (has(State::kQueued)) coverage_.Count("kill", "work queued");
    if (has(State::kDeferred)) coverage_.Count("kill", "work deferred");
    if (has(State::kRunning)) coverage_.Count("kill", "work running");
    if (!of.objects.empty()) coverage_.Count("kill", "objects held");
  }
  const bool worker_goes = of.by_messages && !of.gone && step.pick_more % 2 == 0;
  if (worker_goes) reference_.Leave(session);
  reference_.End(session);
  actions.push_back({.kind = step.kind,
                     .session = session,
                     .elsewhere = step.elsewhere,
                     .worker_goes = worker_goes});
}

void Script::EndIdle(std::vector<Action>& actions) {
  for (const Session& session : reference_.sessions()) {
    if (!session.disconnecting || session.ended || !session.idle()) continue;
    coverage_.Count("disconnect", "ends later");
    const bool worker_goes = session.by_messages && !session.gone;
    if (worker_goes) reference_.Leave(session.id);
    reference_.End(session.id);
    actions.push_back({.kind = StepKind::kKill,
                       .session = session.id,
                       .worker_goes = worker_goes,
                       .work_is_done = worker_goes});
  }
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

void Script::Advance(const Step& step, std::vector<Action>& actions) {
  if (reference_.stopped()) return;
  const Millis until = reference_.now() + step.time;
  bool delayed = false, queued = false, deferred = false, closing = false;
  const size_t were_delayed = reference_.ledger().delayed;
  for (const Invocation& known : reference_.invocations()) {
    if (known.deadline > until) continue;
    delayed = delayed || known.state == State::kDelayed;
    queued = queued || known.state == State::kQueued;
    deferred = deferred || known.state == State::kDeferred;
  }
  for (const Object& object : reference_.objects()) closing = closing || object.close_by <= until;
  if (delayed) coverage_.Count("advance", "delayed expire");
  if (queued) coverage_.Count("advance", "queued expire");
  if (deferred) coverage_.Count("advance", "deferred expire");
  if (closing) coverage_.Count("advance", "closing is overdue");
  reference_.Advance(step.time);
  const bool due = reference_.ledger().delayed < were_delayed;
  if (due && !delayed) coverage_.Count("advance", "delayed join the queue");
  if (!due && !queued && !deferred && !closing) coverage_.Count("advance", "nothing is due");
  actions.push_back({.kind = step.kind, .time = step.time});
}

void Script::Run(const Step& step, std::vector<Action>& actions) {
  if (reference_.stopped()) return;
  const bool inside = reference_.running() != kNone;
  const bool nothing = !reference_.anything_waits();
  if (reference_.full_lanes() > 0) {
    coverage_.Count("run", reference_.full_lanes() > 1 ? "several lanes are beyond their depth"
                                                       : "a lane is beyond its depth");
  }
  const bool left = reference_.Run(step.count);
  coverage_.Count("run", inside                        ? "inside a task"
                         : nothing                     ? "nothing waits"
                         : reference_.anything_waits() ? "some"
                                                       : "all");
  actions.push_back(
      {.kind = step.kind, .count = step.count, .answer = left ? "come back" : "nothing is left"});
}

void Script::Drain(const Step& step, std::vector<Action>& actions) {
  const bool before = reference_.stopped();
  const Reference::Drained drained = reference_.Drain(step.time);
  coverage_.Count("drain", before                   ? "stopped before"
                           : drained.drained        ? "all done"
                           : drained.not_closed > 0 ? "objects are left"
                                                    : "work is left");
  actions.push_back({.kind = step.kind,
                     .time = step.time,
                     .answer = absl::StrCat(drained.drained ? "drained" : "not drained", ", ",
                                            drained.not_closed, " not closed")});
}

void Script::Stop(std::vector<Action>& actions) {
  const bool before = reference_.stopped();
  const Ledger::Counts& ledger = reference_.ledger();
  const bool work = ledger.delayed + ledger.queued + ledger.deferred > 0;
  const size_t not_closed = reference_.Stop();
  if (before) {
    coverage_.Count("stop", "stopped before");
  } else {
    if (work) coverage_.Count("stop", "work is left");
    if (not_closed > 0) coverage_.Count("stop", "objects are left");
    if (!work && not_closed == 0) coverage_.Count("stop", "nothing is left");
  }
  actions.push_back({.kind = StepKind::kStop, .answer = absl::StrCat(not_closed, " not closed")});
}

}  // namespace runloop::sequence

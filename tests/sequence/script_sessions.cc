// Steps of sessions: how they begin and end, and lose their connections.

#include <algorithm>

#include "runloop/tests/sequence/script.h"

namespace runloop::sequence {
namespace {

using Invocation = Reference::Invocation;
using Session = Reference::Session;
using State = Reference::State;

}  // namespace

void Script::Open(const Step& step, std::vector<Action>& actions) {
  if (reference_.stopped()) return;  // a transport opens no session then
  coverage_.Count("open", reference_.draining() ? "while draining" : "opened");
  const int session = reference_.Open(static_cast<int>(step.pick_more % 8 / 2), step.priority);
  if (transport_ != Transport::kLocal && !reference_.session(session).in_process()) {
    reference_.SpeakByMessages(session);
    // A daemon that drains opens no stream: nobody has it.
    if (reference_.draining()) reference_.Leave(session);
  }
  actions.push_back({.kind = step.kind, .session = session, .elsewhere = step.elsewhere});
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
  reference_.Hear(session);
  const bool worker_goes = of.by_messages && !of.gone && step.pick_more % 2 == 0;
  if (worker_goes) reference_.Leave(session);
  reference_.End(session);
  actions.push_back({.kind = step.kind,
                     .session = session,
                     .elsewhere = step.elsewhere,
                     .worker_goes = worker_goes});
}

void Script::Disconnect(const Step& step, std::vector<Action>& actions) {
  const int session = PickSession(step);
  if (session == kNone || reference_.session(session).ended) return;
  coverage_.Count("disconnect", reference_.session(session).idle() ? "idle" : "work unfinished");
  reference_.Hear(session);
  reference_.Disconnect(session);
  if (reference_.session(session).by_messages) {
    actions.push_back({.kind = step.kind, .session = session, .elsewhere = step.elsewhere});
  }
}

void Script::EndIdle(std::vector<Action>& actions) {
  for (const Session& session : reference_.sessions()) {
    if (!session.disconnecting || session.ended || !session.idle()) continue;
    coverage_.Count("disconnect", "ends later");
    reference_.Hear(session.id);
    const bool worker_goes = session.by_messages && !session.gone;
    if (worker_goes) reference_.Leave(session.id);
    reference_.End(session.id);
    actions.push_back({.kind = StepKind::kKill,
                       .session = session.id,
                       .worker_goes = worker_goes,
                       .work_is_done = worker_goes});
  }
}

void Script::CutConnection(const Step& step, std::vector<Action>& actions) {
  const int session = PickSubscriber(step);
  if (session == kNone) return;
  const Cut what = step.pick_more % 3 == 0   ? Cut::kRequest
                   : step.pick_more % 3 == 1 ? Cut::kResponse
                                             : Cut::kHeard;
  coverage_.Count("cut", what == Cut::kRequest ? "a request is lost" : "responses are lost");
  reference_.CutNext(session, what);
  actions.push_back({.kind = step.kind, .session = session, .cut = what});
}

}  // namespace runloop::sequence

// What a step works on: what there is when its turn comes.

#include "runloop/tests/sequence/script.h"

namespace runloop::sequence {
namespace {

using Invocation = Reference::Invocation;
using Object = Reference::Object;
using Session = Reference::Session;
using State = Reference::State;

}  // namespace

int Script::Pick(const std::vector<int>& among, uint32_t pick) {
  return among.empty() ? kNone : among[pick % among.size()];
}

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

}  // namespace runloop::sequence

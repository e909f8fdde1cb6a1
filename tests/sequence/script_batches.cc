// Steps that hand over batches; and, for the table, what became of batches, and whose turn it was.

#include <string_view>

#include "runloop/tests/sequence/script.h"

namespace runloop::sequence {
namespace {

using Invocation = Reference::Invocation;

}  // namespace

void Script::Batch(const Step& step, std::vector<Action>& actions) {
  const int session = PickSession(step);
  if (session == kNone) return;
  Step work = step;
  std::vector<int> objects;
  for (Step& one : work.batch) {
    one = PrepareWork(one);
    const bool names = one.behaviour == Behaviour::kUse || one.behaviour == Behaviour::kRelease;
    objects.push_back(names && one.pick % 8 != 0 ? PickHandle(one, session) : kNone);
  }
  const auto [answer, first, joined] = reference_.DispatchBatch(session, work, objects);
  Answer(answer, "dispatch a batch");
  if (answer == "queued") {
    if (!joined) coverage_.Count("dispatch a batch", "waits in its lane");
    if (work.batch.size() > Line::kLaneDepth) {
      coverage_.Count("dispatch a batch", "longer than a lane's depth");
    }
  }
  actions.push_back({.kind = step.kind,
                     .session = session,
                     .invocation = first,
                     .elsewhere = step.elsewhere,
                     .stop_at_failure = step.stop_at_failure,
                     .flaw = step.flaw,
                     .count = static_cast<int>(work.batch.size()),
                     .answer = answer});
}

void Script::CountTurns() {
  for (const char* const turn : reference_.TakeTurns()) coverage_.Count("turn", turn);
}

void Script::CountStopped(const Invocation& stopped) {
  const Invocation& by = reference_.invocation(stopped.stopped_by);
  const std::string_view how = by.how;
  const bool defers =
      by.step.behaviour == Behaviour::kDefer || by.step.behaviour == Behaviour::kMakeAndDefer;
  coverage_.Count("a batch stops", how == "cancelled" || how == "given up" ? "one was cancelled"
                                   : how == "expired"                      ? "one has expired"
                                   : defers ? "one that was deferred has failed"
                                            : "one has failed");
}

}  // namespace runloop::sequence

// Steps of the runtime as a whole.

#include "absl/strings/str_cat.h"
#include "runloop/tests/sequence/script.h"

namespace runloop::sequence {
namespace {

using Invocation = Reference::Invocation;
using Object = Reference::Object;
using State = Reference::State;

}  // namespace

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
  if (left && reference_.in_batch()) coverage_.Count("run", "in the middle of a batch");
  actions.push_back(
      {.kind = step.kind, .count = step.count, .answer = left ? "come back" : "nothing is left"});
}

void Script::BeginDrain(const Step& step, std::vector<Action>& actions) {
  coverage_.Count("begin to drain", reference_.draining() ? "again" : "first");
  reference_.BeginDrain();
  actions.push_back({.kind = step.kind, .elsewhere = step.elsewhere});
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

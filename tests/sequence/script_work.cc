// Steps that hand work over.

#include <algorithm>
#include <string_view>

#include "absl/strings/match.h"
#include "runloop/tests/sequence/script.h"

namespace runloop::sequence {
namespace {

using Session = Reference::Session;

}  // namespace

std::string_view Script::RefusalCell(const std::string& answer) {
  struct Known {
    std::string_view text, cell;
  };
  static constexpr Known kKnown[] = {{"DRAINING", "refused: draining"},
                                     {"RUNTIME_STOPPED", "refused: stopped"},
                                     {"SESSION_ENDED", "refused: session ended"},
                                     {"TOO_LARGE", "refused: can never fit"},
                                     {"UNKNOWN_OPERATION", "refused: one is unknown"},
                                     {"INVALID_REQUEST", "refused: one has a key"}};
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
  asked.meanwhile = step.meanwhile;
  const Step first = PrepareWork(asked);
  for (int turn = 0; step.count == 0 || turn < step.count; ++turn) {
    const int session = sessions[static_cast<size_t>(turn) % sessions.size()];
    const std::string answer = reference_.Dispatch(session, turn == 0 ? first : plain, kNone);
    actions.push_back({.kind = plain.kind,
                       .session = session,
                       .invocation = reference_.invocations().back().id,
                       .answer = answer});
    if (answer == "queued") continue;
    coverage_.Count("fill", RefusalCell(answer));
    return;
  }
}

}  // namespace runloop::sequence

// Batches, in the reference model.

#include "runloop/tests/sequence/outcome_text.h"
#include "runloop/tests/sequence/reference.h"

namespace runloop::sequence {

Reference::BatchTaken Reference::DispatchBatch(int session, const Step& step,
                                               const std::vector<int>& objects) {
  Say(session);
  const int first = static_cast<int>(invocations_.size());
  Bound all;
  for (const Step& one : step.batch) {
    const int id = Hear(session, one, objects[static_cast<size_t>(all.items)]);
    invocations_[id].batch = first;
    invocations_[id].stops = step.stop_at_failure;
    ++all.items;
    all.bytes += one.bytes;
  }
  // The transport does not find it, and asks nobody else.
  if (step.flaw == Flaw::kUnknown) {
    return {.answer = "UNIMPLEMENTED UNKNOWN_OPERATION", .first = first};
  }
  std::string refusal = WhyClosed(session);
  if (refusal.empty() && step.flaw == Flaw::kKey) refusal = "INVALID_ARGUMENT INVALID_REQUEST";
  if (refusal.empty()) refusal = WhyNoRoom(session, all, all);
  if (!refusal.empty()) {
    ledger_.refused += static_cast<uint64_t>(all.items);
    return {.answer = refusal, .first = first};
  }
  std::vector<Entry> together;
  for (int id = first; id < static_cast<int>(invocations_.size()); ++id) {
    Admit(id);
    together.push_back(EntryOf(id));
  }
  return {.answer = "queued", .first = first, .joined = line_.PushBatch(std::move(together))};
}

bool Reference::StopsWithBatch(int invocation) {
  Invocation& stopped = invocations_[invocation];
  if (!stopped.stops) return false;
  for (int before = stopped.batch; before < invocation; ++before) {
    const Invocation& of = invocations_[before];
    if (of.state != State::kEnded || of.succeeded) continue;
    stopped.stopped_by = before;
    EndUnstarted(invocation, OutcomeKind::kCancelled, "stopped with its batch");
    stopped.outcome = kBatchStopped;
    const auto told = expected_.outcomes.find(invocation);
    if (told != expected_.outcomes.end()) told->second = kBatchStopped;
    return true;
  }
  return false;
}

}  // namespace runloop::sequence

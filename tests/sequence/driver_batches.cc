// Batches as calls of the runtime, as a transport makes them, and as messages.

#include <utility>

#include "runloop/tests/sequence/driver.h"
#include "runloop/tests/sequence/outcome_text.h"

namespace runloop::sequence {
namespace {

using internal::RuntimeCore;

constexpr char kUnknown[] = "runloop.test.v1.TestOperations/Unknown";
constexpr char kAnyKey[] = "any key";

}  // namespace

void Driver::DispatchBatch(const Action& action) {
  if (action.flaw == Flaw::kUnknown) {
    return ExpectAnswer(action, InWords(core().FindOperation(kUnknown).status()));
  }
  std::vector<RuntimeCore::Call> calls;
  for (int i = 0; i < action.count; ++i) calls.push_back(CallOf(action.invocation + i));
  if (action.flaw == Flaw::kKey) calls[calls.size() / 2].coalesce_key = kAnyKey;
  absl::StatusOr<std::vector<std::shared_ptr<internal::OperationTask>>> tasks =
      core().DispatchBatch(std::move(calls), action.stop_at_failure);
  for (int i = 0; tasks.ok() && i < action.count; ++i) {
    tasks_[action.invocation + i] = std::move((*tasks)[static_cast<size_t>(i)]);
  }
  ExpectAnswer(action, tasks.ok() ? "queued" : InWords(tasks.status()));
}

void Driver::DispatchBatchByMessage(const Action& action, MessageSession& messages) {
  v1::SessionRequest request;
  for (int i = 0; i < action.count; ++i) {
    FillDispatch(action.invocation + i, *request.add_dispatches());
  }
  request.mutable_dispatches(0)->set_batch_size(static_cast<uint32_t>(action.count));
  request.mutable_dispatches(0)->set_stop_at_failure(action.stop_at_failure);
  v1::Dispatch& flawed = *request.mutable_dispatches(action.count / 2);
  if (action.flaw == Flaw::kUnknown) flawed.set_operation_name(kUnknown);
  if (action.flaw == Flaw::kKey) flawed.set_coalesce_key(kAnyKey);
  std::map<int, std::string> told = Say(messages, request);
  for (int i = 0; i < action.count; ++i) {
    // What it was refused for is heard as its outcome.
    const auto refused = told.extract(action.invocation + i);
    ExpectAnswer(action, refused.empty() ? "queued" : refused.mapped());
  }
  for (const auto& [id, outcome] : told) observed_.Outcome(id, outcome);
}

}  // namespace runloop::sequence

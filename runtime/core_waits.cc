// Who waits for whom in RuntimeCore: chains, and the cycles that they close (D8).

#include <algorithm>
#include <utility>

#include "runloop/runtime/core.h"

namespace runloop::internal {
namespace {

// A task that needs the runtime thread to end.
bool HoldsTheThread(const Task& task) {
  const Task::State state = task.state();
  return state == Task::State::kDelayed || state == Task::State::kQueued ||
         state == Task::State::kRunning;
}

}  // namespace

void RuntimeCore::PassOn(const Chain& chain) {
  const std::shared_ptr<Waits::Forward> forward = waits_.forward();
  if (forward == nullptr) return;
  std::string operation(NameOf(current_.Read()));
  (*forward)(Longer(
      chain, {.runtime_id = id_, .operation = std::move(operation), .wait = waits_.number()}));
}

bool RuntimeCore::ClosesCycle(const Chain& chain) const {
  return std::any_of(chain.begin(), chain.end(), [this](const ChainLink& link) {
    return link.runtime_id == id_ && waits_.MayBeIn(link.wait);
  });
}

void RuntimeCore::AlsoWaits(OperationTask& task, Chain chain) {
  if (ClosesCycle(chain)) {
    if (lifecycle_.EndUnstarted(task, OutcomeKind::kCancelled)) {
      AfterEndUnstarted(task, DeadlockError(chain, id_, task.operation->name()));
    }
  } else if (task.session->info().peer.role.empty() && HoldsTheThread(task)) {
    waits_.Add(task, chain);
    PassOn(chain);
  }
}

void RuntimeCore::AlsoWaitsForClosure(Task& task, Chain chain) {
  if (ClosesCycle(chain)) {
    if (!lifecycle_.EndUnstarted(task, OutcomeKind::kCancelled)) return;
    lifecycle_.CountStale(1);
    task.Skip(DeadlockError(chain, id_, "(closure)"));
  } else if (HoldsTheThread(task)) {
    waits_.Add(task, chain);
    PassOn(chain);
  }
}

Chain RuntimeCore::WaitingChain() const {
  std::vector<Chain> chains;
  if (running_ != nullptr) waits_.Collect(*running_, chains);
  // The others are passed on by BeginWait.
  const Chain chain = chains.empty() ? Chain() : std::move(chains.front());
  const bool named = running_ != nullptr && running_->operation != nullptr;
  return Longer(chain, {.runtime_id = id_,
                        .operation = named ? running_->operation->name() : std::string("(closure)"),
                        .wait = waits_.number()});
}

bool RuntimeCore::BeginWait(std::string for_what, std::shared_ptr<Waits::Forward> forward) {
  if (waits_.forward() != nullptr) return false;
  waits_.Begin(std::move(for_what), std::move(forward));
  // Whoever waits for this task, the one that the dispatch named once more, since another may have
  // come before it; and for what is queued behind it. What is queued from now on passes itself on.
  std::vector<Chain> chains;
  if (running_ != nullptr) waits_.Collect(*running_, chains);
  const auto collect = [&](Task& task) {
    waits_.Collect(task, chains);
    return false;
  };
  timers_.TakeIf(nullptr, collect);
  queue_.TakeIf(clock_->Now(), nullptr, collect);
  for (const Chain& chain : chains) PassOn(chain);
  return true;
}

void RuntimeCore::EndWait() { waits_.End(); }

}  // namespace runloop::internal

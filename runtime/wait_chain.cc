#include "runloop/runtime/wait_chain.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/strings.h"

namespace runloop::internal {
namespace {

std::string InWords(const ChainLink& link) {
  return absl::StrCat(link.operation, " of runtime ", link.runtime_id.substr(0, 8));
}

}  // namespace

Chain Longer(const Chain& chain, ChainLink last) {
  if (last.operation.size() > kMaxLinkOperation) last.operation.resize(kMaxLinkOperation);
  size_t bytes = last.runtime_id.size() + last.operation.size();
  for (const ChainLink& link : chain) bytes += link.runtime_id.size() + link.operation.size();
  if (chain.size() >= kMaxChainLinks || bytes > kMaxChainBytes) return {std::move(last)};
  Chain longer = chain;
  longer.push_back(std::move(last));
  return longer;
}

absl::Status DeadlockError(const Chain& chain, std::string_view runtime_id,
                           std::string_view operation) {
  const auto from = std::find_if(chain.begin(), chain.end(), [&](const ChainLink& link) {
    return link.runtime_id == runtime_id;
  });
  std::string cycle;
  for (auto link = from; link != chain.end(); ++link) {
    absl::StrAppend(&cycle, InWords(*link), " waits for ");
  }
  absl::StrAppend(&cycle, InWords({std::string(runtime_id), std::string(operation)}),
                  ", which waits for the first");
  return MakeError(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_DEADLOCK,
                   absl::StrCat("deadlock: ", cycle, "; dispatch without blocking, or not from ",
                                "inside an operation"),
                   {{"cycle", cycle}});
}

void Waits::Begin(std::string for_what, std::shared_ptr<Forward> forward) {
  absl::MutexLock lock(&mutex_);
  for_what_ = std::move(for_what);
  forward_ = std::move(forward);
  ++begun_;
}

void Waits::End() {
  std::shared_ptr<Forward> forward;  // destroyed without the lock
  absl::MutexLock lock(&mutex_);
  for_what_.clear();
  forward.swap(forward_);
}

std::string Waits::for_what() const {
  absl::MutexLock lock(&mutex_);
  return for_what_;
}

uint64_t Waits::number() const {
  absl::MutexLock lock(&mutex_);
  return forward_ != nullptr ? begun_ : begun_ + 1;
}

bool Waits::MayBeIn(uint64_t number) const {
  absl::MutexLock lock(&mutex_);
  // Of a wait that has yet to begin the dispatch may be under way.
  return number == 0 || number > begun_ || (number == begun_ && forward_ != nullptr);
}

void Waits::Add(Task& task, Chain chain) {
  absl::MutexLock lock(&mutex_);
  if (task.chains == nullptr) task.chains = std::make_unique<std::vector<Chain>>();
  std::vector<Chain>& chains = *task.chains;
  if (chains.size() < kMaxChains &&
      std::find(chains.begin(), chains.end(), chain) == chains.end()) {
    chains.push_back(std::move(chain));
  }
}

void Waits::Collect(const Task& task, std::vector<Chain>& chains) const {
  absl::MutexLock lock(&mutex_);
  if (task.chains != nullptr) {
    chains.insert(chains.end(), task.chains->begin(), task.chains->end());
  }
}

std::shared_ptr<Waits::Forward> Waits::forward() const {
  absl::MutexLock lock(&mutex_);
  return forward_;
}

bool OnARuntimeThread() { return RuntimeCore::OfThisThread() != nullptr; }

Chain CurrentChain() {
  RuntimeCore* const core = RuntimeCore::OfThisThread();
  return core == nullptr ? Chain() : core->WaitingChain();
}

WaitScope::WaitScope(std::string for_what, Waits::Forward forward) {
  if (RuntimeCore* const core = RuntimeCore::OfThisThread()) {
    waits_ =
        core->BeginWait(std::move(for_what), std::make_shared<Waits::Forward>(std::move(forward)));
  }
}

WaitScope::~WaitScope() {
  if (waits_) RuntimeCore::OfThisThread()->EndWait();
}

}  // namespace runloop::internal

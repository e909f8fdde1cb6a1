#include "runloop/runtime/external_loop.h"

#include <utility>

namespace runloop {

ExternalLoop::ExternalLoop() = default;
ExternalLoop::~ExternalLoop() = default;

absl::Status ExternalLoop::Attach(Work work) {
  if (absl::Status status = wake_.status(); !status.ok()) return status;
  work_ = std::move(work);
  return absl::OkStatus();
}

void ExternalLoop::Detach() { work_ = nullptr; }

void ExternalLoop::Wake() { wake_.Signal(); }

bool ExternalLoop::Drain(const DrainBudget& budget) {
  wake_.Clear();
  if (!work_ || !work_(budget)) return false;
  wake_.Signal();  // keeps fd() readable while work is left
  return true;
}

absl::Status ExternalLoop::Run() {
  return absl::FailedPreconditionError("an external loop is run by its owner, who calls Drain");
}

void ExternalLoop::Quit() {}

}  // namespace runloop

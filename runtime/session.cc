#include "runloop/runtime/session.h"

#include <utility>

#include "runloop/runtime/core.h"

namespace runloop {

Session::Session(std::weak_ptr<internal::RuntimeCore> core, Info info)
    : core_(std::move(core)), info_(std::move(info)) {}

void Session::AtEnd(absl::AnyInvocable<void() &&> closure) {
  {
    absl::MutexLock lock(&mutex_);
    if (!closures_run_) {
      at_end_.push_back(std::move(closure));
      return;
    }
  }
  // The session is over, and so is the one run of its closures.
  if (const std::shared_ptr<internal::RuntimeCore> core = core_.lock()) {
    core->RunAfterSessionEnd(std::move(closure));
  } else {
    std::move(closure)();
  }
}

void Session::End() {
  if (ended_.exchange(true, std::memory_order_acq_rel)) return;
  if (const std::shared_ptr<internal::RuntimeCore> core = core_.lock()) {
    core->SessionEnded(shared_from_this());
  }
}

Session::Counts Session::counts() const {
  return {.queued = queued_.load(std::memory_order_relaxed),
          .running = running_.load(std::memory_order_relaxed),
          .finished = finished_.load(std::memory_order_relaxed)};
}

void Session::RunClosures() {
  std::vector<absl::AnyInvocable<void() &&>> closures;
  {
    absl::MutexLock lock(&mutex_);
    closures_run_ = true;
    closures.swap(at_end_);
  }
  while (!closures.empty()) {
    absl::AnyInvocable<void() &&> last = std::move(closures.back());
    closures.pop_back();
    try {
      std::move(last)();
    } catch (...) {
      if (const std::shared_ptr<internal::RuntimeCore> core = core_.lock()) {
        (void)internal::CurrentExceptionStatus(core.get());
      }
    }
  }
}

}  // namespace runloop

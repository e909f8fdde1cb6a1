// What a stop token does to a dispatch.

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop::internal {
namespace {

// Lives until the invocation is done, which may be while it runs, and on the same thread.
struct OnStop {
  std::weak_ptr<InvocationState> state;
  DispatchTarget::WhenStopped means;

  void operator()() const noexcept {
    const DispatchTarget::WhenStopped what = means;
    const std::shared_ptr<InvocationState> kept = state.lock();
    // From here on this may be gone.
    if (kept == nullptr) return;
    what == DispatchTarget::WhenStopped::kStop ? kept->Stop() : kept->Cancel();
  }
};

}  // namespace

absl::Status StoppedBefore() {
  return MakeError(absl::StatusCode::kCancelled, v1::ERROR_REASON_CANCELLED,
                   "stop was requested before it was dispatched; it never runs");
}

absl::Status StoppedWhileRunning(std::string_view operation) {
  return MakeError(absl::StatusCode::kCancelled, v1::ERROR_REASON_STILL_RUNNING,
                   absl::StrCat(std::string(operation),
                                " had started when stop was requested; it runs on, and what it "
                                "makes is released"));
}

std::shared_ptr<InvocationState> DispatchTarget::DispatchUntilStopped(Call call,
                                                                      const std::stop_token& token,
                                                                      WhenStopped means) {
  if (token.stop_requested()) {
    auto refused = std::make_shared<InvocationState>();
    refused->Finish(StoppedBefore());
    return refused;
  }
  std::shared_ptr<InvocationState> state = Dispatch(std::move(call));
  if (state->done()) return state;
  auto on_stop =
      std::make_unique<std::stop_callback<OnStop>>(token, OnStop{.state = state, .means = means});
  // Freed by whoever finishes it: that waits, if stop is being requested just now, until this
  // cancel, which comes too late, is over.
  state->Watch([on_stop = std::move(on_stop)](const absl::Status&) mutable { on_stop.reset(); });
  return state;
}

}  // namespace runloop::internal

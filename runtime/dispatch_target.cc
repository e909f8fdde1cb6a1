// What a stop token does to a dispatch or a batch, and what all ways to a runtime say.

#include "runloop/runtime/dispatch_target.h"

#include <fcntl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/stubs/common.h"
#include "runloop/runtime/batch.h"
#include "runloop/runtime/error.h"

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

// Lets the token cancel it.
void Stop(const std::shared_ptr<InvocationState>& state, const std::stop_token& token,
          DispatchTarget::WhenStopped means) {
  if (state->done()) return;
  auto on_stop =
      std::make_unique<std::stop_callback<OnStop>>(token, OnStop{.state = state, .means = means});
  // Freed by whoever finishes it: that waits, if stop is being requested just now, until this
  // cancel, which comes too late, is over.
  state->Watch([on_stop = std::move(on_stop)](const absl::Status&) mutable { on_stop.reset(); });
}

}  // namespace

absl::Status BatchStopped() {
  return MakeError(absl::StatusCode::kCancelled, v1::ERROR_REASON_BATCH_STOPPED,
                   "an earlier one of its batch did not succeed; it never ran");
}

absl::Status CheckBatchSize(size_t size) {
  if (size <= kMostInBatch) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
      absl::StrCat("a batch of ", size, "; it may have ", kMostInBatch, ": dispatch several"));
}

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
  Stop(state, token, means);
  return state;
}

std::vector<std::shared_ptr<InvocationState>> DispatchTarget::DispatchBatchUntilStopped(
    Batch batch, const BatchOptions& options) {
  std::vector<std::shared_ptr<InvocationState>> states;
  if (batch.empty()) return states;
  if (options.stop_token.stop_requested()) {
    for (size_t i = 0; i < batch.size(); ++i) {
      states.push_back(std::make_shared<InvocationState>());
      states.back()->Finish(StoppedBefore());
    }
    return states;
  }
  const TraceParent trace_parent = TraceParentOr(options.trace_parent);
  for (Call& call : batch.calls_) {
    call.timeout = options.timeout.value_or(absl::InfiniteDuration());
    call.when_full = options.when_full;
    call.trace_parent = Copy(trace_parent);
  }
  states = DispatchBatch(std::move(batch.calls_), options.stop_at_failure);
  if (options.stop_token.stop_possible()) {
    for (const auto& state : states) Stop(state, options.stop_token, WhenStopped::kCancel);
  }
  return states;
}

absl::Status CheckDescriptor(int fd) {
  if (fcntl(fd, F_GETFD) >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("no descriptor ", fd, " is open"));
}

absl::Status CheckCoalesceKey(const std::string& key) {
  constexpr size_t kLongest = 128;
  if (key.empty()) return absl::OkStatus();
  if (key.size() > kLongest) {
    return MakeError(
        absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
        absl::StrCat("a coalesce_key of ", key.size(), " bytes; it may have ", kLongest));
  }
  if (!google::protobuf::internal::IsStructurallyValidUTF8(key.data(),
                                                           static_cast<int>(key.size()))) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                     "the coalesce_key is not UTF-8");
  }
  return absl::OkStatus();
}

}  // namespace runloop::internal

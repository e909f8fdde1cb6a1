#include "runloop/runtime/wait.h"

#include <algorithm>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

namespace runloop {
namespace {

class AnyDone final : public internal::InvocationState::Waiter {
 public:
  void Tell() override {
    absl::MutexLock lock(&mutex_);
    told_ = true;
    changed_.Signal();
  }
  void Wait(absl::Time deadline) {
    absl::MutexLock lock(&mutex_);
    while (!told_ && Clock::Monotonic()->Now() < deadline) {
      Clock::Monotonic()->WaitUntil(&mutex_, &changed_, deadline);
    }
  }

 private:
  absl::Mutex mutex_;
  absl::CondVar changed_;
  bool told_ ABSL_GUARDED_BY(mutex_) = false;
};

std::optional<size_t> FirstDone(absl::Span<const Invocation> invocations) {
  const auto first = std::find_if(invocations.begin(), invocations.end(),
                                  [](const Invocation& each) { return each.done(); });
  if (first == invocations.end()) return std::nullopt;
  return first - invocations.begin();
}

absl::Status NotAfter(absl::Duration timeout, size_t unfinished, size_t all) {
  return MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                   absl::StrCat(unfinished, " of ", all, " invocations have no outcome after ",
                                absl::FormatDuration(timeout), "; they go on"));
}

}  // namespace

absl::Status WaitAll(absl::Span<const Invocation> invocations, absl::Duration timeout) {
  const absl::Time deadline = Clock::Monotonic()->Now() + timeout;
  absl::Status first_error;
  for (const Invocation& each : invocations) {
    const absl::Status waited = each.Await(deadline - Clock::Monotonic()->Now());
    if (each.done()) {
      first_error.Update(each.Await(absl::ZeroDuration()));
      continue;
    }
    if (!absl::IsDeadlineExceeded(waited)) return waited;
    const auto unfinished = std::count_if(invocations.begin(), invocations.end(),
                                          [](const Invocation& other) { return !other.done(); });
    return NotAfter(timeout, std::max<size_t>(unfinished, 1), invocations.size());
  }
  return first_error;
}

absl::StatusOr<size_t> WaitAny(absl::Span<const Invocation> invocations, absl::Duration timeout) {
  if (invocations.empty()) return absl::InvalidArgumentError("there is no invocation to wait for");
  const absl::Time deadline = Clock::Monotonic()->Now() + timeout;
  if (const std::optional<size_t> first = FirstDone(invocations)) return *first;
  for (const Invocation& each : invocations) {
    if (internal::StateOf(each)->WaitWouldDeadlock()) {
      return absl::FailedPreconditionError(
          "waiting on the very thread that has to run one of them or to bring its outcome; use "
          "Watch");
    }
  }
  AnyDone waiter;
  size_t added = 0;
  while (added < invocations.size() && internal::StateOf(invocations[added])->Add(waiter)) ++added;
  if (added == invocations.size()) waiter.Wait(deadline);
  for (size_t i = 0; i < added; ++i) internal::StateOf(invocations[i])->Remove(waiter);
  if (const std::optional<size_t> first = FirstDone(invocations)) return *first;
  return NotAfter(timeout, invocations.size(), invocations.size());
}

}  // namespace runloop

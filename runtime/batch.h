#ifndef RUNLOOP_RUNTIME_BATCH_H_
#define RUNLOOP_RUNTIME_BATCH_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "runloop/runtime/call_site.h"
#include "runloop/runtime/dispatch_target.h"

namespace runloop {

// Of operations; a batch of more is refused (INVALID_REQUEST), and so is one of more than a daemon
// takes, which is less for workers in a role (MESSAGE_TOO_LARGE). A batch makes others wait for all
// of it: what is longer is better several.
inline constexpr size_t kMostInBatch = 1024;

// Operations that are to run in a row, for RuntimeContext::DispatchBatch. Moved, not copied; one
// thread at a time. Closures need none: one that loops is a batch.
class Batch {
 public:
  // The next operation. `Reply` and `where` as in RuntimeContext::DispatchAsync.
  template <typename Reply = void, typename Request>
  Batch& Add(std::string_view operation, Request request,
             SourceLocation where = SourceLocation::current()) {
    calls_.push_back({.operation = std::string(operation),
                      .request = std::make_unique<Request>(std::move(request)),
                      .reply_wanted = !std::is_void_v<Reply>,
                      .reply_type = internal::DescriptorOf<Reply>(),
                      .call_site = CallSite(where)});
    return *this;
  }

  size_t size() const { return calls_.size(); }
  bool empty() const { return calls_.empty(); }

 private:
  friend class internal::DispatchTarget;
  std::vector<internal::DispatchTarget::Call> calls_;
};

struct BatchOptions {
  // Those behind one that is known to have ended without success when their turn comes, whether it
  // failed, expired or was cancelled, never run: CANCELLED (BATCH_STOPPED). Else each runs,
  // whatever became of those before it.
  bool stop_at_failure = false;
  // From now, for each: what has not started by then never runs. Default: none.
  std::optional<absl::Duration> timeout;
  // For the batch as a whole, as in DispatchOptions. In process nobody keeps room for it: beside
  // others that dispatch one by one and leave little, it may wait until its timeout.
  WhenFull when_full = WhenFull::kFail;
  // For each, as in DispatchOptions.
  std::stop_token stop_token;
  std::string trace_parent;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_BATCH_H_

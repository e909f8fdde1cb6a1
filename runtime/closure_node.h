#ifndef RUNLOOP_RUNTIME_CLOSURE_NODE_H_
#define RUNLOOP_RUNTIME_CLOSURE_NODE_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "runloop/runtime/call_site.h"
#include "runloop/runtime/queue_item.h"

namespace runloop::internal {

class RuntimeCore;

// A closure that nobody waits for, in one cache line: nothing can end it but running it, or the end
// of its runtime, so it has no state, no deadline and no counters of its own. Recycled by
// ClosurePool. Small closures lie inside; others are allocated.
class alignas(64) ClosureNode : public QueueItem {
 public:
  static constexpr size_t kInline = 32;

  // What it holds from now on, and who handed it over.
  template <typename F>
  void Emplace(F closure, CallSite call_site) {
    call_site_ = call_site;
    if constexpr (sizeof(F) <= kInline && alignof(F) <= kInline &&
                  std::is_nothrow_move_constructible_v<F>) {
      new (storage_) F(std::move(closure));
      run_ = &Call<F>;
    } else {
      Emplace(Boxed<F>{std::make_unique<F>(std::move(closure))}, call_site);
    }
  }

  CallSite call_site() const { return call_site_; }

  // Runs and destroys the closure; false if it threw, which is logged. The runtime thread.
  bool Run(RuntimeCore& core) { return run_(*this, &core); }
  // Destroys it.
  void Drop() { run_(*this, nullptr); }

 private:
  template <typename F>
  struct Boxed {
    std::unique_ptr<F> closure;
    void operator()() { std::invoke(std::move(*closure)); }
  };

  template <typename F>
  static bool Call(ClosureNode& node, RuntimeCore* core);

  CallSite call_site_;
  alignas(kInline) std::byte storage_[kInline];
};
static_assert(sizeof(ClosureNode) == 64);

// Logs the exception that is being handled.
void LogClosureThrew(RuntimeCore& core);

template <typename F>
bool ClosureNode::Call(ClosureNode& node, RuntimeCore* core) {
  // Destroyed by whoever leaves this, however it is left.
  struct Destroy {
    void operator()(F* f) const { f->~F(); }
  };
  const std::unique_ptr<F, Destroy> closure(std::launder(reinterpret_cast<F*>(node.storage_)));
  if (core == nullptr) return true;
  try {
    std::invoke(std::move(*closure));
    return true;
  } catch (...) {
    LogClosureThrew(*core);
    return false;
  }
}

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_CLOSURE_NODE_H_

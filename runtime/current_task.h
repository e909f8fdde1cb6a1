#ifndef RUNLOOP_RUNTIME_CURRENT_TASK_H_
#define RUNLOOP_RUNTIME_CURRENT_TASK_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "runloop/runtime/call_site.h"

namespace runloop {

class Operation;
class Session;

namespace internal {

// The task that runs now, for status and the service thread: written by the runtime thread alone,
// twice a task, without a lock; read by any thread.
class CurrentTask {
 public:
  struct Look {
    bool active = false;
    const Operation* operation = nullptr;  // null: a closure
    // May be gone by now: only to be compared. Null: none.
    const Session* session = nullptr;
    CallSite call_site;  // if its peer told it, of `session`: to be read only while that is there
    std::array<uint64_t, 2> trace_id = {};  // zero: it has no trace context
    absl::Time since;
    uint64_t version = 0;  // another for each task
  };

  // The runtime thread, as Clear.
  void Set(const Operation* operation, const Session* session, CallSite call_site,
           std::array<uint64_t, 2> trace_id, absl::Time since) {
    BeginWrite();
    active_.store(true, std::memory_order_release);
    operation_.store(operation, std::memory_order_release);
    session_.store(session, std::memory_order_release);
    call_site_.store(call_site, std::memory_order_release);
    for (size_t i = 0; i < trace_id.size(); ++i) {
      trace_id_[i].store(trace_id[i], std::memory_order_release);
    }
    since_.store(absl::ToUnixNanos(since), std::memory_order_release);
    EndWrite();
  }
  void Clear() {
    BeginWrite();
    active_.store(false, std::memory_order_release);
    EndWrite();
  }

  Look Read() const {
    while (true) {
      const uint64_t version = version_.load(std::memory_order_acquire);
      const Look look{
          .active = active_.load(std::memory_order_acquire),
          .operation = operation_.load(std::memory_order_acquire),
          .session = session_.load(std::memory_order_acquire),
          .call_site = call_site_.load(std::memory_order_acquire),
          .trace_id = {trace_id_[0].load(std::memory_order_acquire),
                       trace_id_[1].load(std::memory_order_acquire)},
          .since = absl::FromUnixNanos(since_.load(std::memory_order_acquire)),
          .version = version,
      };
      // Of a field that was written since, this sees the version that was written before it.
      if (version % 2 == 0 && version_.load(std::memory_order_relaxed) == version) return look;
    }
  }

 private:
  // Odd while it is being written.
  void BeginWrite() {
    version_.store(version_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  void EndWrite() {
    version_.store(version_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }

  std::atomic<uint64_t> version_{0};
  std::atomic<bool> active_{false};
  std::atomic<const Operation*> operation_{nullptr};
  std::atomic<const Session*> session_{nullptr};
  std::atomic<CallSite> call_site_{};
  std::array<std::atomic<uint64_t>, 2> trace_id_{};
  std::atomic<int64_t> since_{0};  // nanoseconds of the clock since the epoch of Unix
};

}  // namespace internal
}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_CURRENT_TASK_H_

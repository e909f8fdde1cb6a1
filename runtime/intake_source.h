#ifndef RUNLOOP_RUNTIME_INTAKE_SOURCE_H_
#define RUNLOOP_RUNTIME_INTAKE_SOURCE_H_

#include "absl/time/time.h"

namespace runloop::internal {

// A transport without a thread of its own: the runtime takes in what has come, at intake, and hands
// out outcomes, on the runtime thread between tasks, or, when that has not come to it for 5 ms,
// on the service thread. The source may serve on threads of its own, too.
//
// Threads: as said of each. Must block nobody: a call takes in a bounded part. What one thread has
// learnt by Collect and left, the runtime thread does not learn again: who calls it, or Serve, on
// another thread pokes the runtime (RuntimeCore::Poke) afterwards.
class IntakeSource {
 public:
  virtual ~IntakeSource() = default;

  // Readable from when somebody has something for a runtime thread that sleeps until the next
  // Collect. Constant.
  virtual int wake_fd() const = 0;
  // Learns who that was. Any thread.
  virtual void Collect() = 0;
  // True if Serve would find something, as far as that can be seen at a glance. The runtime thread.
  virtual bool HasWork() = 0;
  // Takes in some of what has come, and hands out outcomes: one turn, which may not come to all
  // that wait; HasWork says whether something is left. `now` by the runtime's clock. Any thread.
  virtual void Serve(absl::Time now) = 0;
  // The runtime thread is going to sleep: from now on wake_fd tells. False: there is something to
  // do after all.
  virtual bool AnnounceSleep() = 0;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_INTAKE_SOURCE_H_

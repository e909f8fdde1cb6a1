#ifndef RUNLOOP_RUNTIME_TIMER_H_
#define RUNLOOP_RUNTIME_TIMER_H_

#include <memory>
#include <utility>

namespace runloop {

namespace internal {
class RuntimeCore;
class TimerTask;
}  // namespace internal

// A closure that runs later, once or again and again (LocalRuntimeContext::RunAfter, RunEvery). A
// cheap value; copies mean the same timer. Safe from any thread. Destroying it does not cancel what
// it names, as with Invocation. It may outlive the runtime.
class Timer {
 public:
  // Names no timer.
  Timer() = default;
  Timer(std::shared_ptr<internal::RuntimeCore> core, std::shared_ptr<internal::TimerTask> task)
      : core_(std::move(core)), task_(std::move(task)) {}

  // True: this call ended the timer, and no run of its closure starts any more. False: it had ended
  // before: its only run has started, it was cancelled, or the runtime has stopped.
  //
  // A run of a periodic timer that goes on meanwhile ends as it would, also one that makes this
  // call; the answer is true.
  //
  // The closure is destroyed on the runtime thread: before this returns, if that is the calling
  // thread and it is not running, else soon.
  bool Cancel() const;

 private:
  std::shared_ptr<internal::RuntimeCore> core_;
  std::shared_ptr<internal::TimerTask> task_;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_TIMER_H_

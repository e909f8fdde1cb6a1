#ifndef RUNLOOP_RUNTIME_SIGNAL_WATCH_H_
#define RUNLOOP_RUNTIME_SIGNAL_WATCH_H_

#include <signal.h>

#include <functional>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"

namespace runloop {

// Calls back for SIGINT and SIGTERM, on a thread of its own, so that it works while the runtime
// thread is stuck. Signal dispositions belong to the process, so there is one watch at a time.
class SignalWatch {
 public:
  // `callback` gets each signal, in order. FAILED_PRECONDITION if another watch exists.
  static absl::StatusOr<std::unique_ptr<SignalWatch>> Create(
      std::function<void(int signal)> callback);

  // Restores the former dispositions and waits for a callback that is running; not to be called
  // from it.
  ~SignalWatch();

  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

 private:
  SignalWatch(int read_fd, std::function<void(int)> callback);
  void Serve();

  // Constant after construction.
  const int read_fd_;
  const std::function<void(int)> callback_;
  struct sigaction old_int_, old_term_;
  std::thread thread_;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_SIGNAL_WATCH_H_

#ifndef RUNLOOP_DAEMON_LOG_QUEUE_H_
#define RUNLOOP_DAEMON_LOG_QUEUE_H_

#include <memory>
#include <string_view>
#include <thread>

#include "runloop/runtime/log.h"

namespace runloop::daemon {

// Between threads that must not wait and a sink that may block: keeps up to 256 lines for it, and
// counts what it drops when there is no room. The sink is called on a thread of the queue's, one
// line at a time.
//
// Any thread; construction and destruction the owner's. Destruction writes what is left, but waits
// for a second at most: a sink that still blocks then is left to its thread, with no further line.
class LogQueue {
 public:
  explicit LogQueue(LogSink sink);
  ~LogQueue();
  LogQueue(const LogQueue&) = delete;
  LogQueue& operator=(const LogQueue&) = delete;

  // Never waits.
  void Write(LogSeverity severity, std::string_view line);
  // Waits until all lines are written, for a second at most.
  void Flush();

 private:
  struct State;  // shared with the thread, which may outlive the queue
  static void Run(State& state);

  const std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_LOG_QUEUE_H_

#ifndef RUNLOOP_DAEMON_SESSION_OUTBOX_H_
#define RUNLOOP_DAEMON_SESSION_OUTBOX_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/message.h"
#include "runloop/daemon/completion_thread.h"

namespace runloop::daemon {

class SessionStream;

// One invocation's end, on its way to the worker.
struct Finished {
  uint64_t number = 0;  // InvocationWindow
  absl::Status status;
  std::unique_ptr<google::protobuf::Message> reply;  // if it was asked for
  size_t bytes = 0;                                  // what it counts for while it is unsent
  bool given_up = false;                             // not its end: the worker gave it up
};

// Where the outcomes of one session stream gather until the stream writes them: the runtime thread
// appends under a lock that is held for a few instructions, and wakes the stream's thread only if
// that has run out of outcomes. Shared by the stream and its invocations, which may outlive it.
class SessionOutbox : public std::enable_shared_from_this<SessionOutbox> {
 public:
  SessionOutbox(std::shared_ptr<CompletionThread> completion, SessionStream* stream)
      : completion_(std::move(completion)), stream_(stream) {}

  // Any thread. Dropped if the stream is closed.
  void Append(Finished finished);

  // Moves what has gathered to the end of `to`; if it is nothing, the next Append wakes. The
  // stream's thread.
  void Take(std::vector<Finished>& to);

  // Bytes that have gathered. Any thread.
  size_t bytes() const;

  // From now on outcomes are dropped. The stream's thread.
  void Close();

 private:
  const std::shared_ptr<CompletionThread> completion_;
  SessionStream* stream_;  // the stream's thread only

  mutable absl::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool wake_ ABSL_GUARDED_BY(mutex_) = true;
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Finished> finished_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_OUTBOX_H_

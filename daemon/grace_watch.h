#ifndef RUNLOOP_DAEMON_GRACE_WATCH_H_
#define RUNLOOP_DAEMON_GRACE_WATCH_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/event_fd.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop::daemon {

// Watches over sessions that have lost their connection: says which of them are to end, since their
// worker has died or has not come back in time.
//
// Threads: any. One of its own, there only while something is watched, sleeps until there is
// something to say.
class GraceWatch {
 public:
  // Called on the watch's thread, once for each session that was added and not removed before. Must
  // not block, nor call back.
  using Ended = std::function<void(const std::string& session_id, const absl::Status& why)>;

  explicit GraceWatch(Ended ended) : ended_(std::move(ended)) {}
  // Nothing is called after this.
  ~GraceWatch();
  GraceWatch(const GraceWatch&) = delete;
  GraceWatch& operator=(const GraceWatch&) = delete;

  // `process`: a pidfd. `deadline` of Clock::Monotonic. False: there can be no thread. One thread
  // at a time.
  bool Add(const std::string& session_id, std::shared_ptr<const UniqueFd> process,
           absl::Time deadline);
  // It may be called just now.
  void Remove(const std::string& session_id);

 private:
  struct Watched {
    std::shared_ptr<const UniqueFd> process;
    absl::Time deadline;
  };

  void Run();

  const Ended ended_;
  const EventFd changed_;
  std::thread thread_;  // Add's and the destructor's

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool running_ ABSL_GUARDED_BY(mutex_) = false;  // the thread, and it looks once more
  absl::flat_hash_map<std::string, Watched> watched_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_GRACE_WATCH_H_

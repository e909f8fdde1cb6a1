#include "runloop/daemon/reply_thread.h"

#include <utility>

namespace runloop::daemon {

ReplyThread::ReplyThread() : thread_([this] { Serve(); }) {}

ReplyThread::~ReplyThread() { Stop(); }

void ReplyThread::Post(Closure closure) {
  absl::MutexLock lock(&mutex_);
  if (stopped_) return;
  closures_.push_back(std::move(closure));
  if (waiting_) posted_.Signal();
}

void ReplyThread::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    posted_.Signal();
  }
  if (thread_.joinable()) thread_.join();
}

void ReplyThread::Serve() {
  std::vector<Closure> taken;
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      while (closures_.empty() && !stopped_) {
        waiting_ = true;
        posted_.Wait(&mutex_);
        waiting_ = false;
      }
      if (closures_.empty()) return;
      taken.swap(closures_);
    }
    for (Closure& closure : taken) std::move(closure)();
    taken.clear();
  }
}

}  // namespace runloop::daemon

#include "runloop/runtime/callback_thread.h"

#include <pthread.h>
#include <signal.h>

#include <utility>

namespace runloop::internal {

CallbackThread::~CallbackThread() {
  std::deque<Closure> unrun;
  {
    absl::MutexLock lock(&shared_->mutex);
    shared_->stop = true;
    unrun.swap(shared_->posted);
  }
  unrun.clear();
  absl::MutexLock lock(&mutex_);
  if (!thread_.joinable()) return;
  if (thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

void CallbackThread::Post(Closure closure) {
  {
    absl::MutexLock lock(&shared_->mutex);
    shared_->posted.push_back(std::move(closure));
  }
  absl::MutexLock lock(&mutex_);
  if (thread_.joinable()) return;
  // Signals are for the program's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([shared = shared_] { Run(shared); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void CallbackThread::Run(const std::shared_ptr<Shared>& shared) {
  while (true) {
    Closure closure;
    {
      absl::MutexLock lock(&shared->mutex);
      shared->mutex.Await(absl::Condition(shared.get(), &Shared::has_work));
      if (shared->stop) return;
      closure = std::move(shared->posted.front());
      shared->posted.pop_front();
    }
    std::move(closure)();
  }
}

}  // namespace runloop::internal

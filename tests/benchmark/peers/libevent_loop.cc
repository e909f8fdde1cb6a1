// libevent: a vector under a mutex, and an event that is made active when the vector was empty.

#include <event2/event.h>
#include <event2/thread.h>

#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "runloop/tests/benchmark/peers/peer_loop.h"

namespace runloop::benchmark {
namespace {

class LibeventLoop {
 public:
  LibeventLoop() {
    evthread_use_pthreads();
    base_ = event_base_new();
    event_ = event_new(
        base_, -1, EV_PERSIST,
        [](evutil_socket_t, short, void* self) { static_cast<LibeventLoop*>(self)->RunPosted(); },
        this);
    thread_ = std::thread([this] {
      Pin(Side::kRuntime);
      event_base_loop(base_, EVLOOP_NO_EXIT_ON_EMPTY);
    });
  }
  ~LibeventLoop() {
    Post([this] { event_base_loopbreak(base_); });
    thread_.join();
    event_free(event_);
    event_base_free(base_);
  }

  template <typename F>
  void Post(F closure) {
    bool was_empty;
    {
      const std::lock_guard lock(mutex_);
      was_empty = posted_.empty();
      posted_.emplace_back(std::move(closure));
    }
    if (was_empty) event_active(event_, EV_READ, 0);
  }
  template <typename F>
  uint64_t Call(F closure) {
    return CallByPosting(*this, std::move(closure));
  }

 private:
  void RunPosted() {
    {
      const std::lock_guard lock(mutex_);
      running_.swap(posted_);
    }
    for (const auto& closure : running_) closure();
    running_.clear();
  }

  event_base* base_;
  event* event_;
  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;
  std::vector<std::function<void()>> running_;
  std::thread thread_;
};

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  return runloop::benchmark::MeasurePeer<runloop::benchmark::LibeventLoop>(argc, argv, "libevent");
}

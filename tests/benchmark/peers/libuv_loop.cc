// libuv: a vector under a mutex, and uv_async_send, which coalesces by itself.

#include <uv.h>

#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "runloop/tests/benchmark/peers/peer_loop.h"

namespace runloop::benchmark {
namespace {

class LibuvLoop {
 public:
  LibuvLoop() {
    uv_loop_init(&loop_);
    async_.data = this;
    uv_async_init(&loop_, &async_,
                  [](uv_async_t* async) { static_cast<LibuvLoop*>(async->data)->RunPosted(); });
    thread_ = std::thread([this] {
      Pin(Side::kRuntime);
      uv_run(&loop_, UV_RUN_DEFAULT);
    });
  }
  ~LibuvLoop() {
    Post([this] { uv_close(reinterpret_cast<uv_handle_t*>(&async_), nullptr); });
    thread_.join();
    uv_loop_close(&loop_);
  }

  template <typename F>
  void Post(F closure) {
    bool was_empty;
    {
      const std::lock_guard lock(mutex_);
      was_empty = posted_.empty();
      posted_.emplace_back(std::move(closure));
    }
    if (was_empty) uv_async_send(&async_);
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

  uv_loop_t loop_;
  uv_async_t async_;
  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;
  std::vector<std::function<void()>> running_;
  std::thread thread_;
};

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  return runloop::benchmark::MeasurePeer<runloop::benchmark::LibuvLoop>(argc, argv, "libuv");
}

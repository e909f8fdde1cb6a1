// Asio without Boost: post to an io_context that one thread runs, told so by its hint.

#include <asio.hpp>
#include <chrono>
#include <thread>

#include "runloop/tests/benchmark/peers/peer_loop.h"

namespace runloop::benchmark {
namespace {

class AsioLoop {
 public:
  AsioLoop() {
    // As a program has that waits for anything but posts: the thread sleeps in the reactor.
    timer_.expires_after(std::chrono::hours(1));
    timer_.async_wait([](const asio::error_code&) {});
    thread_ = std::thread([this] {
      Pin(Side::kRuntime);
      context_.run();
    });
  }
  ~AsioLoop() {
    context_.stop();
    thread_.join();
  }

  template <typename F>
  void Post(F closure) {
    asio::post(context_, std::move(closure));
  }
  template <typename F>
  uint64_t Call(F closure) {
    return CallByPosting(*this, std::move(closure));
  }

 private:
  asio::io_context context_{1};
  asio::steady_timer timer_{context_};
  std::thread thread_;
};

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  return runloop::benchmark::MeasurePeer<runloop::benchmark::AsioLoop>(argc, argv, "asio");
}

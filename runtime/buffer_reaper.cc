#include "runloop/runtime/buffer_reaper.h"

#include <iterator>
#include <system_error>
#include <utility>

namespace runloop::internal {
namespace {

// So much is freed at once.
constexpr size_t kLittle = size_t{4} << 20;

}  // namespace

BufferReaper::~BufferReaper() {
  std::thread last;
  {
    absl::MutexLock lock(&mutex_);
    last.swap(thread_);
  }
  if (last.joinable()) last.join();
}

void BufferReaper::Free(Memory memory) {
  size_t bytes = 0;
  for (const std::shared_ptr<BufferMemory>& each : memory) bytes += each->size();
  if (bytes <= kLittle) return;
  Memory rest;  // freed here, without the lock
  absl::MutexLock lock(&mutex_);
  std::move(memory.begin(), memory.end(), std::back_inserter(waiting_));
  memory.clear();
  if (std::exchange(running_, true)) return;
  if (thread_.joinable()) thread_.join();  // has nothing more to do
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error&) {
    // There are as many threads as there may be, perhaps by a peer's doing.
    running_ = false;
    rest.swap(waiting_);
  }
}

void BufferReaper::Run() {
  while (true) {
    Memory memory;  // freed without the lock
    absl::MutexLock lock(&mutex_);
    memory.swap(waiting_);
    if (memory.empty()) {
      running_ = false;
      return;
    }
  }
}

}  // namespace runloop::internal

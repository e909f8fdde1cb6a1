#include "runloop/runtime/signal_watch.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "absl/status/status.h"

namespace runloop {
namespace {

// The pipe between handler and watch. Made once and never closed, since a handler may still be
// about to write when the watch that installed it is gone.
std::atomic<int> write_fd{-1};
std::atomic<bool> watched{false};
static_assert(std::atomic<int>::is_always_lock_free);

void OnSignal(int signal) {
  const int saved = errno;
  const auto byte = static_cast<unsigned char>(signal);
  [[maybe_unused]] const ssize_t written = write(write_fd.load(), &byte, 1);
  errno = saved;
}

// The pipe's reading end, or -1.
int SignalPipe() {
  static const int read_fd = [] {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) return -1;
    fcntl(fds[1], F_SETFL, O_NONBLOCK);  // the handler must not block
    write_fd.store(fds[1]);
    return fds[0];
  }();
  return read_fd;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SignalWatch>> SignalWatch::Create(
    std::function<void(int)> callback) {
  const int read_fd = SignalPipe();
  if (read_fd < 0) return absl::ResourceExhaustedError("no descriptors for a pipe");
  if (watched.exchange(true)) {
    return absl::FailedPreconditionError("the process's signals are being watched already");
  }
  return std::unique_ptr<SignalWatch>(new SignalWatch(read_fd, std::move(callback)));
}

SignalWatch::SignalWatch(int read_fd, std::function<void(int)> callback)
    : read_fd_(read_fd), callback_(std::move(callback)) {
  thread_ = std::thread([this] { Serve(); });
  struct sigaction action {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &old_int_);
  sigaction(SIGTERM, &action, &old_term_);
}

SignalWatch::~SignalWatch() {
  sigaction(SIGINT, &old_int_, nullptr);
  sigaction(SIGTERM, &old_term_, nullptr);
  const unsigned char end = 0;
  [[maybe_unused]] const ssize_t written = write(write_fd.load(), &end, 1);
  thread_.join();
  watched.store(false);
}

void SignalWatch::Serve() {
  for (;;) {
    unsigned char byte = 0;
    const ssize_t got = read(read_fd_, &byte, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got != 1 || byte == 0) return;
    callback_(byte);
  }
}

}  // namespace runloop

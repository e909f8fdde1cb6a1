#ifndef RUNLOOP_RUNTIME_UNIQUE_FD_H_
#define RUNLOOP_RUNTIME_UNIQUE_FD_H_

#include <utility>

namespace runloop {

// A file descriptor that is closed when its owner goes. Not thread-safe.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    Reset(other.Release());
    return *this;
  }
  ~UniqueFd() { Reset(); }

  // -1 if it holds none.
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Gives the descriptor away.
  int Release() { return std::exchange(fd_, -1); }
  // Closes what it held.
  void Reset(int fd = -1);

 private:
  int fd_ = -1;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_UNIQUE_FD_H_

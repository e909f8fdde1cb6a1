#ifndef RUNLOOP_RUNTIME_ADAPTIVE_SPIN_H_
#define RUNLOOP_RUNTIME_ADAPTIVE_SPIN_H_

#include <sched.h>

#include <chrono>

namespace runloop::internal {

// Waiting for something that may come at once: looks for it again and again for a moment, before
// the caller goes to sleep and pays for being woken. It yields the processor between looks, so that
// it costs little where the other side needs this very processor.
//
// Adaptive: it looks only where that has helped lately, and else once in a while, so that who waits
// for long or is idle spins next to nothing. One thread.
class AdaptiveSpin {
 public:
  // A wake-up on another processor takes up to about as long.
  static constexpr std::chrono::microseconds kLongest{50};

  // True once `there` is; false if it is not worth waiting for, or has not come in time.
  template <typename There>
  bool Until(There there) {
    if (there()) return true;
    if (score_ == 0 && ++skipped_ < kTryAgain) return false;
    skipped_ = 0;
    // Where the other side needs this processor, it comes with the first yield or not at all.
    sched_yield();
    if (there()) return Found();
    const auto end = std::chrono::steady_clock::now() + kLongest;
    do {
      for (int i = 0; i < kLooks; ++i) {
        if (there()) return Found();
        Pause();
      }
      sched_yield();
    } while (std::chrono::steady_clock::now() < end);
    if (score_ > 0) --score_;
    return false;
  }

 private:
  static constexpr int kMost = 4;
  static constexpr int kTryAgain = 32;
  static constexpr int kLooks = 8;  // between two yields

  bool Found() {
    if (score_ < kMost) ++score_;
    return true;
  }

  static void Pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  int score_ = kMost / 2;
  int skipped_ = 0;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_ADAPTIVE_SPIN_H_

#ifndef RUNLOOP_CLIENT_CONNECT_SCHEDULE_H_
#define RUNLOOP_CLIENT_CONNECT_SCHEDULE_H_

#include "absl/time/time.h"

namespace runloop::internal {

// When to try to connect next: at once after a session was lost, then ever more rarely, and at once
// again when there is reason to. Reads no clock. Not thread-safe.
class ConnectSchedule {
 public:
  // Attempts are never closer, whatever asks for one.
  static constexpr absl::Duration kShortest = absl::Milliseconds(20);
  static constexpr absl::Duration kLongest = absl::Seconds(1);
  // Where a change of the socket would be seen.
  static constexpr absl::Duration kLongestWatched = absl::Seconds(5);
  // A session that ends earlier counts as an attempt that failed, so that a daemon that ends each
  // at once is not flooded.
  static constexpr absl::Duration kSettled = absl::Seconds(1);

  // InfinitePast at first.
  absl::Time next() const { return next_; }

  // An attempt failed; `refused` for good, which trying often does not mend.
  void Failed(absl::Time now, bool refused, bool watched);
  void SessionEnded(absl::Time now, absl::Time began);
  // Something changed where the daemon listens: begin again.
  void Changed();
  // Somebody waits for a session.
  void Wanted();

 private:
  absl::Time next_ = absl::InfinitePast();
  absl::Time last_ = absl::InfinitePast();
  absl::Duration backoff_ = kShortest;
  bool refused_ = false;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_CONNECT_SCHEDULE_H_

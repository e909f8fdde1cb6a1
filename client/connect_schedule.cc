#include "runloop/client/connect_schedule.h"

#include <algorithm>

namespace runloop::internal {

void ConnectSchedule::Failed(absl::Time now, bool refused, bool watched) {
  const absl::Duration longest = watched ? kLongestWatched : kLongest;
  last_ = now;
  refused_ = refused;
  next_ = now + (refused ? longest : std::min(backoff_, longest));
  backoff_ = std::min(2 * backoff_, longest);
}

void ConnectSchedule::SessionEnded(absl::Time now, absl::Time began) {
  if (now - began < kSettled) {
    Failed(now, /*refused=*/false, /*watched=*/false);
    return;
  }
  last_ = now;
  refused_ = false;
  next_ = now;
  backoff_ = kShortest;
}

void ConnectSchedule::Changed() {
  backoff_ = kShortest;
  next_ = std::min(next_, last_ + kShortest);
}

void ConnectSchedule::Wanted() {
  if (!refused_) next_ = std::min(next_, last_ + kShortest);
}

}  // namespace runloop::internal

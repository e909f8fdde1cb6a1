#include "runloop/daemon/session_outbox.h"

#include <iterator>
#include <utility>

#include "runloop/daemon/session_stream.h"

namespace runloop::daemon {

void SessionOutbox::Append(Finished finished) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return;
  bytes_ += finished.bytes;
  finished_.push_back(std::move(finished));
  if (!std::exchange(wake_, false)) return;
  completion_->Post([self = shared_from_this()] {
    if (self->stream_ != nullptr) self->stream_->OnOutcomes();
  });
}

void SessionOutbox::Take(std::vector<Finished>& to) {
  absl::MutexLock lock(&mutex_);
  wake_ = finished_.empty();
  bytes_ = 0;
  if (to.empty()) {
    to.swap(finished_);
  } else {
    std::move(finished_.begin(), finished_.end(), std::back_inserter(to));
    finished_.clear();
  }
}

size_t SessionOutbox::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

void SessionOutbox::Close() {
  std::vector<Finished> dropped;
  stream_ = nullptr;
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  bytes_ = 0;
  dropped.swap(finished_);
}

}  // namespace runloop::daemon

#include "runloop/daemon/session_outbox.h"

#include <grpc/support/time.h>

#include <iterator>
#include <utility>

namespace runloop::daemon {

void SessionWaker::Wake(std::shared_ptr<SessionOutbox> outbox) {
  absl::MutexLock lock(&mutex_);
  if (queue_ == nullptr) return;
  if (outbox != nullptr) ready_.push_back(std::move(outbox));
  if (set_) return;
  set_ = true;
  alarm_.Set(queue_, gpr_inf_past(GPR_CLOCK_MONOTONIC), tag_);
}

std::vector<std::shared_ptr<SessionOutbox>> SessionWaker::Take() {
  absl::MutexLock lock(&mutex_);
  set_ = false;
  return std::exchange(ready_, {});
}

void SessionWaker::Stop() {
  std::vector<std::shared_ptr<SessionOutbox>> dropped;
  absl::MutexLock lock(&mutex_);
  queue_ = nullptr;
  dropped.swap(ready_);
}

void SessionOutbox::Append(Finished finished) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return;
  bytes_ += finished.bytes;
  finished_.push_back(std::move(finished));
  if (std::exchange(wake_, false)) waker_->Wake(shared_from_this());
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

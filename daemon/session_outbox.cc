#include "runloop/daemon/session_outbox.h"

#include <algorithm>
#include <utility>

#include "runloop/ipc/status_codec.h"

namespace runloop::daemon {
namespace {

// A status of so much goes out as it is.
constexpr size_t kSmallStatus = 512;
// What an outcome counts for beside its reply.
constexpr size_t kOutcomeBytes = 64;

size_t SizeOf(const absl::Status& status) {
  size_t size = status.message().size();
  status.ForEachPayload([&size](absl::string_view type, const absl::Cord& payload) {
    size += type.size() + payload.size();
  });
  return size;
}

}  // namespace

absl::Status BoundedStatus(absl::Status status) {
  if (SizeOf(status) <= kSmallStatus) return status;
  return FromGrpcStatus(ToGrpcStatus(status));
}

size_t OutcomeBytes(const Outcome& outcome) {
  if (!outcome.ok()) return kOutcomeBytes + SizeOf(outcome.status());
  return *outcome == nullptr ? 0 : kOutcomeBytes + (*outcome)->ByteSizeLong();
}

void SessionOutbox::Deliver(std::shared_ptr<Task> task) {
  if (!task->outcome().ok()) task->outcome() = BoundedStatus(task->outcome().status());
  const size_t bytes = task->outcome_bytes = OutcomeBytes(task->outcome());
  if (bytes != 0) bytes_.fetch_add(bytes, std::memory_order_relaxed);
  Task* const added = task.get();
  added->kept = std::move(task);
  Task* head = head_.load(std::memory_order_relaxed);
  std::shared_ptr<SessionOutbox> kept;  // once it is added, nothing else may keep this
  do {
    if (head == EmptyAndAsleep() && kept == nullptr) kept = shared_from_this();
    if (head == Closed()) {
      added->next_delivered = nullptr;
      Tasks dropped;
      Release(added, dropped);
      return;
    }
    added->next_delivered = IsTask(head) ? head : nullptr;
  } while (!head_.compare_exchange_weak(head, added, std::memory_order_seq_cst,
                                        std::memory_order_relaxed));
  if (head == EmptyAndAsleep()) Wake();
}

void SessionOutbox::SetWaker(std::shared_ptr<Waker> waker) {
  absl::MutexLock lock(&mutex_);
  waker_.swap(waker);
}

void SessionOutbox::Wake() {
  std::shared_ptr<Waker> waker;
  {
    absl::MutexLock lock(&mutex_);
    waker = waker_;
  }
  if (waker != nullptr) waker->OnOutcomes();
}

void SessionOutbox::Take(Tasks& to) {
  if (!IsTask(head_.load(std::memory_order_relaxed))) return;
  Release(head_.exchange(Empty(), std::memory_order_acq_rel), to);
}

bool SessionOutbox::Sleep() {
  Task* empty = Empty();
  return head_.compare_exchange_strong(empty, EmptyAndAsleep(), std::memory_order_seq_cst) ||
         !IsTask(empty);
}

void SessionOutbox::Release(Task* newest, Tasks& to) {
  if (!IsTask(newest)) return;
  const size_t first = to.size();
  size_t bytes = 0;
  for (Task* task = newest; task != nullptr; task = task->next_delivered) {
    bytes += task->outcome_bytes;
    to.push_back(std::move(task->kept));
  }
  if (bytes != 0) bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  std::reverse(to.begin() + static_cast<std::ptrdiff_t>(first), to.end());
}

void SessionOutbox::Close() {
  Tasks dropped;
  Release(head_.exchange(Closed(), std::memory_order_acq_rel), dropped);
}

}  // namespace runloop::daemon

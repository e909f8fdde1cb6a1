#include "runloop/daemon/session_outbox.h"

#include <algorithm>
#include <utility>

#include "runloop/daemon/session_stream.h"
#include "runloop/runtime/core.h"

namespace runloop::daemon {

size_t SessionOutbox::ReplyBytes(const Task& task) {
  const google::protobuf::Message* const reply = task.reply();
  return reply == nullptr ? 0 : reply->ByteSizeLong();
}

void SessionOutbox::Deliver(std::shared_ptr<Task> task) {
  const size_t bytes = ReplyBytes(*task);
  if (bytes != 0) reply_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  Task* const added = task.get();
  added->kept = std::move(task);
  Task* head = head_.load(std::memory_order_relaxed);
  do {
    if (head == Closed()) {
      added->next_delivered = nullptr;
      Tasks dropped;
      Release(added, dropped);
      return;
    }
    added->next_delivered = IsTask(head) ? head : nullptr;
  } while (!head_.compare_exchange_weak(head, added, std::memory_order_acq_rel,
                                        std::memory_order_relaxed));
  if (head != EmptyAndAsleep()) return;
  completion_->Post([self = shared_from_this()] {
    if (self->stream_ != nullptr) self->stream_->OnOutcomes();
  });
}

void SessionOutbox::Take(Tasks& to) {
  Task* newest = head_.load(std::memory_order_relaxed);
  if (newest == EmptyAndAsleep() || newest == Closed()) return;
  newest = head_.exchange(Empty(), std::memory_order_acq_rel);
  Task* empty = Empty();
  if (newest == Empty() &&
      !head_.compare_exchange_strong(empty, EmptyAndAsleep(), std::memory_order_acq_rel)) {
    newest = head_.exchange(Empty(), std::memory_order_acq_rel);
  }
  Release(newest, to);
}

void SessionOutbox::Release(Task* newest, Tasks& to) {
  if (!IsTask(newest)) return;
  const size_t first = to.size();
  int64_t bytes = 0;
  size_t reply_bytes = 0;
  for (Task* task = newest; task != nullptr; task = task->next_delivered) {
    bytes += static_cast<int64_t>(task->bytes);
    reply_bytes += ReplyBytes(*task);
    to.push_back(std::move(task->kept));
  }
  if (reply_bytes != 0) reply_bytes_.fetch_sub(reply_bytes, std::memory_order_relaxed);
  newest->core().lifecycle().LetGo(*newest->session, static_cast<int64_t>(to.size() - first),
                                   bytes);
  std::reverse(to.begin() + static_cast<std::ptrdiff_t>(first), to.end());
}

void SessionOutbox::Close() {
  stream_ = nullptr;
  Tasks dropped;
  Release(head_.exchange(Closed(), std::memory_order_acq_rel), dropped);
}

}  // namespace runloop::daemon

#ifndef RUNLOOP_RUNTIME_POST_LIST_H_
#define RUNLOOP_RUNTIME_POST_LIST_H_

#include <atomic>
#include <cstdint>
#include <utility>

#include "runloop/runtime/queue_item.h"

namespace runloop::internal {

// Where producers leave what they post: a lock-free stack that is taken whole and turned round, so
// that the order is that of the pushes. Any thread.
//
// A push and what follows it (LoopSleep) are sequentially consistent: whoever pushes and then finds
// the loop awake, and the loop that announces sleep and then finds the list empty, are never both
// right. post_list_test goes through the interleavings of these steps, which is what the template
// is for.
template <template <typename> class Atomic>
class BasicPostList {
 public:
  // False: closed, now and for ever.
  bool Push(QueueItem* item) { return Push(item, item); }
  // The same for several at once, linked from the newest to the oldest.
  bool Push(QueueItem* newest, QueueItem* oldest) {
    QueueItem* head = head_.load(std::memory_order_relaxed);
    do {
      if (head == Closed()) {
        oldest->next_ = nullptr;  // nothing of what was there before
        return false;
      }
      oldest->next_ = head;
    } while (!head_.compare_exchange_weak(head, newest, std::memory_order_seq_cst,
                                          std::memory_order_relaxed));
    return true;
  }

  // All that was pushed, oldest first.
  ItemList Take() {
    QueueItem* head = head_.load(std::memory_order_seq_cst);
    while (head != nullptr && head != Closed()) {
      if (head_.compare_exchange_weak(head, nullptr, std::memory_order_seq_cst)) {
        return Reverse(head);
      }
    }
    return {};
  }

  // The same, and from now on nothing can be pushed.
  ItemList Close() {
    QueueItem* const head = head_.exchange(Closed(), std::memory_order_seq_cst);
    return head == Closed() ? ItemList() : Reverse(head);
  }

  bool empty() const {
    QueueItem* const head = head_.load(std::memory_order_seq_cst);
    return head == nullptr || head == Closed();
  }

 private:
  // What head_ holds once the list is closed: no item has this address.
  static QueueItem* Closed() { return reinterpret_cast<QueueItem*>(uintptr_t{1}); }

  static ItemList Reverse(QueueItem* newest) {
    ItemList list{.last = newest};
    for (QueueItem* item = newest; item != nullptr; item = item->previous_) {
      item->previous_ = std::exchange(item->next_, list.first);
      list.first = item;
      ++list.size;
      if (!item->is_closure()) ++list.tasks;
    }
    return list;
  }

  // Producers write it all the time: nothing else is in its cache line.
  alignas(64) Atomic<QueueItem*> head_{nullptr};
};

using PostList = BasicPostList<std::atomic>;

// Whether a loop sleeps, so that it is woken if, and mostly only if, it does.
template <template <typename> class Atomic>
class BasicLoopSleep {
 public:
  // After a push: true if the caller has to wake the loop.
  bool NeedsWake() {
    return asleep_.load(std::memory_order_seq_cst) &&
           asleep_.exchange(false, std::memory_order_seq_cst);
  }
  // The loop's thread: announces that it sleeps, unless there is something to do after all.
  template <typename Empty>
  bool Announce(Empty empty) {
    asleep_.store(true, std::memory_order_seq_cst);
    if (empty()) return true;
    asleep_.store(false, std::memory_order_relaxed);
    return false;
  }
  // The loop's thread, once it is awake for whatever reason.
  void Awake() { asleep_.store(false, std::memory_order_relaxed); }
  // Any thread.
  bool asleep() const { return asleep_.load(std::memory_order_seq_cst); }

 private:
  alignas(64) Atomic<bool> asleep_{true};
};

using LoopSleep = BasicLoopSleep<std::atomic>;

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_POST_LIST_H_

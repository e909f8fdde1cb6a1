#ifndef RUNLOOP_RUNTIME_QUEUE_ITEM_H_
#define RUNLOOP_RUNTIME_QUEUE_ITEM_H_

#include <cstddef>
#include <cstdint>
#include <utility>

namespace runloop::internal {

class ClosureNode;
class RuntimeCore;
struct ItemList;

// A link of the post list, and then of the line or of a lane: a ClosureNode, or a Task.
class QueueItem {
 public:
  QueueItem() = default;
  QueueItem(const QueueItem&) = delete;
  QueueItem& operator=(const QueueItem&) = delete;

  bool is_closure() const { return run_ != nullptr; }

 protected:
  ~QueueItem() = default;

  // How a closure is run, or, without a core, destroyed; null for a Task.
  using Run = bool (*)(ClosureNode&, RuntimeCore*);
  Run run_ = nullptr;

 private:
  friend class ClosurePool;
  template <template <typename> class Atomic>
  friend class BasicPostList;
  friend class TaskQueue;
  friend struct ItemList;

  // The post list uses next_ alone; in the line and in lanes they are guarded by the queue's lock.
  QueueItem* next_ = nullptr;
  QueueItem* previous_ = nullptr;
};

// A doubly linked list of items that it does not own.
struct ItemList {
  QueueItem* first = nullptr;
  QueueItem* last = nullptr;
  size_t size = 0;
  size_t tasks = 0;  // that are not closures

  bool empty() const { return first == nullptr; }
  static QueueItem* Next(const QueueItem& item) { return item.next_; }

  void Append(QueueItem* item) {
    item->next_ = nullptr;
    item->previous_ = last;
    (last == nullptr ? first : last->next_) = item;
    last = item;
    Count(*item, 1);
  }
  void Unlink(QueueItem* item) {
    (item->previous_ == nullptr ? first : item->previous_->next_) = item->next_;
    (item->next_ == nullptr ? last : item->next_->previous_) = item->previous_;
    item->next_ = item->previous_ = nullptr;
    Count(*item, -1);
  }
  // Appends all of `other`, which is empty then.
  void Splice(ItemList& other) {
    if (other.empty()) return;
    other.first->previous_ = last;
    (last == nullptr ? first : last->next_) = other.first;
    last = other.last;
    size += other.size;
    tasks += other.tasks;
    other = {};
  }
  // Takes out the first `count`, or all if there are not so many, as long as they are closures.
  ItemList TakeClosures(size_t count) {
    ItemList taken;
    QueueItem* end = first;
    for (; end != nullptr && taken.size < count && end->is_closure(); end = end->next_) {
      taken.last = end;
      ++taken.size;
    }
    if (taken.last == nullptr) return taken;
    taken.first = std::exchange(first, end);
    taken.last->next_ = nullptr;
    (end == nullptr ? last : end->previous_) = nullptr;
    size -= taken.size;
    return taken;
  }

 private:
  void Count(const QueueItem& item, int change) {
    size += static_cast<size_t>(change);
    if (!item.is_closure()) tasks += static_cast<size_t>(change);
  }
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_QUEUE_ITEM_H_

#ifndef RUNLOOP_RUNTIME_QUEUE_ITEM_H_
#define RUNLOOP_RUNTIME_QUEUE_ITEM_H_

#include <cstdint>

namespace runloop::internal {

class ClosureNode;
class RuntimeCore;

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

  // Where it is: in the post list, which uses next_ alone, then, guarded by the queue's lock, in
  // the line or in its lane.
  enum class Place : uint8_t { kNone, kLine, kLane };
  QueueItem* next_ = nullptr;
  QueueItem* previous_ = nullptr;
  Place place_ = Place::kNone;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_QUEUE_ITEM_H_

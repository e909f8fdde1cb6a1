#include "runloop/runtime/closure_pool.h"

#include <algorithm>
#include <new>
#include <utility>

namespace runloop::internal {
namespace {

constexpr size_t kSlabBytes = size_t{32} << 10;
// Empty ones that Trim leaves: half a MiB.
constexpr size_t kKeptSlabs = 16;

void Add(std::atomic<uint64_t>& counter, uint64_t change) {
  // It has one writer.
  counter.store(counter.load(std::memory_order_relaxed) + change, std::memory_order_release);
}

}  // namespace

// Nodes in a row, after a header of the size of one. Aligned to its size, so that a node finds it.
struct alignas(64) ClosurePool::Slab {
  static constexpr size_t kNodes = kSlabBytes / sizeof(ClosureNode) - 1;

  static Slab* Of(ClosureNode& node) {
    return reinterpret_cast<Slab*>(reinterpret_cast<uintptr_t>(&node) & ~(kSlabBytes - 1));
  }
  static Slab* Create() {
    void* const memory = ::operator new (kSlabBytes, std::align_val_t{kSlabBytes});
    return new (memory) Slab;
  }
  static void Destroy(Slab* slab) { ::operator delete (slab, std::align_val_t{kSlabBytes}); }
  ClosureNode* Node(size_t index) { return reinterpret_cast<ClosureNode*>(this + 1) + index; }

  size_t ran = 0;     // the runtime thread's
  size_t filled = 0;  // while no producer has it
};

// One thread's end of a pool. That thread's, but for `posted`, which others read.
struct ClosurePool::Producer {
  explicit Producer(std::shared_ptr<ClosurePool> of) : pool(std::move(of)) {}

  const std::shared_ptr<ClosurePool> pool;
  // The node that is filled next; null without a slab.
  ClosureNode* next = nullptr;
  int credit = 0;
  uint64_t told = 0;  // of `posted`, what posted_about_ knows
  std::atomic<uint64_t> posted{0};
};

namespace {

// What this thread posted to last; trivial, so that looking costs one load. Untyped, since the type
// is private.
constinit thread_local void* last_producer = nullptr;
constinit thread_local bool thread_ends = false;

}  // namespace

// Those of one thread.
class ClosurePool::Producers {
 public:
  ~Producers() {
    thread_ends = true;
    last_producer = nullptr;
    for (const auto& producer : producers_) producer->pool->Leave(*producer);
  }

  Producer* Find(ClosurePool& pool) {
    for (const auto& producer : producers_) {
      if (producer->pool.get() == &pool) return producer.get();
    }
    // A new one comes seldom: the time to forget those whose runtime is gone.
    std::erase_if(producers_, [](const std::unique_ptr<Producer>& producer) {
      if (!producer->pool->closed_.load(std::memory_order_acquire)) return false;
      producer->pool->Leave(*producer);
      return true;
    });
    producers_.push_back(std::make_unique<Producer>(pool.shared_from_this()));
    pool.Enter(*producers_.back());
    return producers_.back().get();
  }

 private:
  std::vector<std::unique_ptr<Producer>> producers_;
};

ClosurePool::ClosurePool(std::function<int64_t()> room, int credit)
    : room_(std::move(room)), credit_(credit) {}

ClosurePool::~ClosurePool() {
  for (Slab* const slab : partly_filled_) Slab::Destroy(slab);
  for (Slab* const slab : empty_) Slab::Destroy(slab);
}

ClosurePool::Producer* ClosurePool::OfThisThread() {
  if (thread_ends) return nullptr;
  thread_local Producers producers;
  Producer* const found = producers.Find(*this);
  last_producer = found;
  return found;
}

ClosureNode* ClosurePool::Take() {
  auto* producer = static_cast<Producer*>(last_producer);
  if (producer == nullptr || producer->pool.get() != this) {
    producer = OfThisThread();
    if (producer == nullptr) {
      Producer only(shared_from_this());
      Enter(only);
      ClosureNode* const node = TakeFor(only);
      Leave(only);
      return node;
    }
  }
  return TakeFor(*producer);
}

ClosureNode* ClosurePool::TakeFor(Producer& producer) {
  if (producer.credit == 0 && !GetCredit(producer)) return nullptr;
  if (producer.next == nullptr) {
    Slab& slab = *GetSlab();
    producer.next = slab.Node(slab.filled);
  }
  auto* const node = new (producer.next) ClosureNode;
  // A slab's last node ends where the next slab would begin.
  const bool last = (reinterpret_cast<uintptr_t>(node + 1) & (kSlabBytes - 1)) == 0;
  producer.next = last ? nullptr : node + 1;
  --producer.credit;
  Add(producer.posted, 1);
  return node;
}

void ClosurePool::GiveBack(ClosureNode* node) {
  Producer* const producer = OfThisThread();
  if (producer == nullptr) {
    absl::MutexLock lock(&mutex_);
    --posted_by_gone_;
    return;
  }
  producer->next = node;
  ++producer->credit;
  producer->posted.store(producer->posted.load(std::memory_order_relaxed) - 1);
}

bool ClosurePool::GetCredit(Producer& producer) {
  const uint64_t posted = producer.posted.load(std::memory_order_relaxed);
  posted_about_.fetch_add(static_cast<int64_t>(posted - producer.told));
  producer.told = posted;
  producer.credit = static_cast<int>(std::clamp<int64_t>(room_(), 0, credit_));
  return producer.credit > 0;
}

ClosurePool::Slab* ClosurePool::GetSlab() {
  {
    absl::MutexLock lock(&mutex_);
    for (std::vector<Slab*>* const slabs : {&partly_filled_, &empty_}) {
      if (slabs->empty()) continue;
      Slab* const slab = slabs->back();
      slabs->pop_back();
      return slab;
    }
  }
  return Slab::Create();
}

void ClosurePool::Run(ClosureNode& node, RuntimeCore& core) {
  Add(started_, 1);
  Add(node.Run(core) ? succeeded_ : failed_, 1);
  Recycle(node);
}

void ClosurePool::Abandon(ClosureNode& node) {
  node.Drop();
  Add(abandoned_, 1);
  Recycle(node);
}

void ClosurePool::Recycle(ClosureNode& node) {
  Slab* const slab = Slab::Of(node);
  if (++slab->ran < Slab::kNodes) return;
  slab->ran = slab->filled = 0;  // its producer has left it
  absl::MutexLock lock(&mutex_);
  empty_.push_back(slab);
}

void ClosurePool::Trim() {
  std::vector<Slab*> surplus;
  {
    absl::MutexLock lock(&mutex_);
    if (empty_.size() <= kKeptSlabs) return;
    surplus.assign(empty_.begin() + kKeptSlabs, empty_.end());
    empty_.resize(kKeptSlabs);
    empty_.shrink_to_fit();
  }
  for (Slab* const slab : surplus) Slab::Destroy(slab);
}

void ClosurePool::Enter(Producer& producer) {
  absl::MutexLock lock(&mutex_);
  producers_.push_back(&producer);
}

void ClosurePool::Leave(Producer& producer) {
  const uint64_t posted = producer.posted.load(std::memory_order_relaxed);
  posted_about_.fetch_add(static_cast<int64_t>(posted - producer.told));
  absl::MutexLock lock(&mutex_);
  if (producer.next != nullptr) {
    Slab* const slab = Slab::Of(*producer.next);
    slab->filled = static_cast<size_t>(producer.next - slab->Node(0));
    partly_filled_.push_back(slab);
  }
  posted_by_gone_ += posted;
  std::erase(producers_, &producer);
}

ClosurePool::Counts ClosurePool::counts() const {
  Counts counts;
  // Those that come first in a closure's life are read last, so that none is missing.
  counts.abandoned = abandoned_.load(std::memory_order_acquire);
  counts.failed = failed_.load(std::memory_order_acquire);
  counts.succeeded = succeeded_.load(std::memory_order_acquire);
  counts.started = started_.load(std::memory_order_acquire);
  absl::MutexLock lock(&mutex_);
  counts.posted = posted_by_gone_;
  for (const Producer* const producer : producers_) {
    counts.posted += producer->posted.load(std::memory_order_acquire);
  }
  return counts;
}

int64_t ClosurePool::unfinished() const {
  if (credit_ == 1) {
    const Counts exact = counts();
    return static_cast<int64_t>(exact.posted - exact.ended());
  }
  const uint64_t ended = succeeded_.load(std::memory_order_relaxed) +
                         failed_.load(std::memory_order_relaxed) +
                         abandoned_.load(std::memory_order_relaxed);
  return posted_about_.load() - static_cast<int64_t>(ended);
}

}  // namespace runloop::internal

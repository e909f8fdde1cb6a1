#include "runloop/runtime/closure_pool.h"

#include <algorithm>
#include <utility>

namespace runloop::internal {
namespace {

// 2 MiB. Nodes beyond that are given back to the allocator.
constexpr size_t kMostChains = 512;

void Add(std::atomic<uint64_t>& counter, uint64_t change) {
  // It has one writer.
  counter.store(counter.load(std::memory_order_relaxed) + change, std::memory_order_release);
}

}  // namespace

// One thread's end of a pool. That thread's, but for `posted`, which others read.
struct ClosurePool::Producer {
  explicit Producer(std::shared_ptr<ClosurePool> of) : pool(std::move(of)) {}

  const std::shared_ptr<ClosurePool> pool;
  ClosureNode* nodes = nullptr;
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
    Producer* const added = producers_.back().get();
    absl::MutexLock lock(&pool.mutex_);
    pool.producers_.push_back(added);
    return added;
  }

 private:
  std::vector<std::unique_ptr<Producer>> producers_;
};

ClosurePool::ClosurePool(std::function<int64_t()> room, int credit)
    : room_(std::move(room)), credit_(credit) {}

ClosurePool::~ClosurePool() {
  Delete(used_);
  for (ClosureNode* const chain : chains_) Delete(chain);
}

void ClosurePool::Delete(ClosureNode* nodes) {
  while (nodes != nullptr) {
    delete std::exchange(nodes, static_cast<ClosureNode*>(nodes->next_));
  }
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
      // Rare: no producer, so no recycling either.
      if (room_() <= 0) return nullptr;
      posted_about_.fetch_add(1);
      absl::MutexLock lock(&mutex_);
      ++posted_by_gone_;
      return new ClosureNode;
    }
  }
  if (producer->credit == 0 && !GetCredit(*producer)) return nullptr;
  if (producer->nodes == nullptr) producer->nodes = GetNodes();
  ClosureNode* const node = producer->nodes;
  producer->nodes = static_cast<ClosureNode*>(node->next_);
  --producer->credit;
  Add(producer->posted, 1);
  return node;
}

void ClosurePool::GiveBack(ClosureNode* node) {
  Producer* const producer = OfThisThread();
  if (producer == nullptr) {
    posted_about_.fetch_sub(1);
    delete node;
    absl::MutexLock lock(&mutex_);
    --posted_by_gone_;
    return;
  }
  node->next_ = producer->nodes;
  producer->nodes = node;
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

ClosureNode* ClosurePool::GetNodes() {
  {
    absl::MutexLock lock(&mutex_);
    if (!chains_.empty()) {
      ClosureNode* const chain = chains_.back();
      chains_.pop_back();
      return chain;
    }
  }
  return new ClosureNode;
}

void ClosurePool::Run(ClosureNode& node, RuntimeCore& core) {
  Add(started_, 1);
  Add(node.Run(core) ? succeeded_ : failed_, 1);
  Recycle(node);
}

void ClosurePool::Abandon(ClosureNode& node) {
  node.Drop();
  // As if it had started, too, so that what is queued is what was posted and has not started.
  Add(abandoned_, 1);
  Recycle(node);
}

void ClosurePool::Recycle(ClosureNode& node) {
  node.next_ = used_;
  used_ = &node;
  if (++used_count_ < kChain) return;
  used_count_ = 0;
  ClosureNode* const chain = std::exchange(used_, nullptr);
  {
    absl::MutexLock lock(&mutex_);
    if (chains_.size() < kMostChains) {
      chains_.push_back(chain);
      return;
    }
  }
  Delete(chain);
}

void ClosurePool::Leave(Producer& producer) {
  Delete(std::exchange(producer.nodes, nullptr));
  const uint64_t posted = producer.posted.load(std::memory_order_relaxed);
  posted_about_.fetch_add(static_cast<int64_t>(posted - producer.told));
  absl::MutexLock lock(&mutex_);
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

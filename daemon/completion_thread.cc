#include "runloop/daemon/completion_thread.h"

#include <grpc/grpc.h>
#include <grpc/support/time.h>
#include <grpcpp/security/server_credentials.h>

#include <chrono>
#include <string>
#include <utility>

namespace runloop::daemon {
namespace {

// How often what was posted goes before what the queue has, in a row.
constexpr int kPostsInARow = 16;
constexpr std::chrono::milliseconds kPostsFor{1};

// Registers a completion queue of another server's with a server that is being built. The C library
// lets servers share a queue; the C++ one has no call for it, but hands its server to the
// credentials of every address before it starts. This one listens nowhere.
class SharedQueue final : public grpc::ServerCredentials {
 public:
  explicit SharedQueue(grpc_completion_queue* queue) : queue_(queue) {}

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string&, grpc_server* server) override {
    grpc_server_register_completion_queue(server, queue_, nullptr);
    return 1;  // not 0, which would be a failure
  }

  grpc_completion_queue* const queue_;
};

}  // namespace

CompletionThread::CompletionThread() = default;

CompletionThread::~CompletionThread() { Stop(); }

void CompletionThread::AddTo(grpc::ServerBuilder& builder) {
  std::unique_ptr<grpc::ServerCompletionQueue> own = builder.AddCompletionQueue();
  if (queue_ == nullptr) {
    queue_ = std::move(own);
    return;
  }
  // The builder insists on a queue of its own, which stays empty.
  unused_queues_.push_back(std::move(own));
  builder.AddListeningPort("shared-queue", std::make_shared<SharedQueue>(queue_->cq()));
}

void CompletionThread::Start() {
  thread_ = std::thread([this] { Serve(); });
}

void CompletionThread::Post(Closure closure) {
  absl::MutexLock lock(&mutex_);
  if (stopped_) return;
  posted_.push_back(std::move(closure));
  has_posted_.store(true, std::memory_order_release);
  if (!polling_ || waking_) return;
  waking_ = true;
  alarm_.Set(queue_.get(), gpr_inf_past(GPR_CLOCK_MONOTONIC),
             static_cast<CompletionTag*>(&wake_tag_));
}

bool CompletionThread::RunPosted() {
  {
    absl::MutexLock lock(&mutex_);
    if (posted_.empty()) return false;
    running_.swap(posted_);
    has_posted_.store(false, std::memory_order_relaxed);
  }
  for (Closure& closure : running_) std::move(closure)();
  running_.clear();
  return true;
}

bool CompletionThread::CompleteNext(bool wait) {
  void* tag = nullptr;
  bool ok = false;
  bool got;
  if (wait) {
    got = queue_->Next(&tag, &ok);
    absl::MutexLock lock(&mutex_);
    polling_ = false;
    if (got && tag == static_cast<CompletionTag*>(&wake_tag_)) waking_ = false;
  } else {
    switch (queue_->AsyncNext(&tag, &ok, gpr_inf_past(GPR_CLOCK_MONOTONIC))) {
      case grpc::CompletionQueue::TIMEOUT:
        return true;
      case grpc::CompletionQueue::SHUTDOWN:
        return false;
      case grpc::CompletionQueue::GOT_EVENT:
        break;
    }
    got = true;
    if (tag == static_cast<CompletionTag*>(&wake_tag_)) {
      absl::MutexLock lock(&mutex_);
      waking_ = false;
    }
  }
  if (got) static_cast<CompletionTag*>(tag)->Complete(ok);
  return got;
}

void CompletionThread::Serve() {
  bool serves = true;
  while (serves) {
    std::chrono::steady_clock::time_point until;
    for (int i = 0; i < kPostsInARow && RunPosted(); ++i) {
      expecting_ = false;
      const auto now = std::chrono::steady_clock::now();
      if (i == 0) until = now + kPostsFor;
      if (now >= until) break;
    }
    if (std::exchange(expecting_, false) &&
        spin_.Until([this] { return has_posted_.load(std::memory_order_acquire); })) {
      continue;
    }
    bool wait;
    {
      absl::MutexLock lock(&mutex_);
      wait = polling_ = posted_.empty();
    }
    serves = CompleteNext(wait);
  }
}

void CompletionThread::Stop() {
  if (queue_ == nullptr || std::exchange(ended_, true)) return;
  if (thread_.joinable()) {
    // On the thread, the only one that starts operations on the queue: none may be started after.
    Post([this] {
      stopping_ = true;
      std::vector<Closure> dropped;
      absl::MutexLock lock(&mutex_);
      stopped_ = true;
      dropped.swap(posted_);
      queue_->Shutdown();
    });
    thread_.join();
  } else {
    unused_queues_.push_back(std::move(queue_));
  }
  for (const std::unique_ptr<grpc::ServerCompletionQueue>& queue : unused_queues_) {
    queue->Shutdown();
    void* tag;
    bool ok;
    while (queue->Next(&tag, &ok)) {
    }
  }
}

}  // namespace runloop::daemon

#ifndef RUNLOOP_DAEMON_SPARE_REQUESTS_H_
#define RUNLOOP_DAEMON_SPARE_REQUESTS_H_

#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/operation_registry.h"

namespace runloop::daemon {

// Requests that have been handled, small ones, to be parsed into again: a flood would have the
// allocator make and free each on another thread. Not thread-safe.
class SpareRequests {
 public:
  // An empty one.
  std::unique_ptr<google::protobuf::Message> Get(const Operation& operation) {
    Spares& spares = Of(operation);
    if (spares.empty()) return operation.NewRequest();
    std::unique_ptr<google::protobuf::Message> request = std::move(spares.back());
    spares.pop_back();
    --size_;
    return request;
  }
  void Put(const Operation& operation, std::unique_ptr<google::protobuf::Message> request) {
    if (request == nullptr || size_ == kMost) return;
    request->Clear();
    Of(operation).push_back(std::move(request));
    ++size_;
  }
  void Clear() {
    last_ = nullptr;
    spares_.clear();
    size_ = 0;
  }

 private:
  using Spares = std::vector<std::unique_ptr<google::protobuf::Message>>;
  static constexpr size_t kMost = 16'384;

  Spares& Of(const Operation& operation) {
    if (last_ == nullptr || last_->operation != &operation) {
      std::unique_ptr<Entry>& entry = spares_[&operation];
      if (entry == nullptr) entry = std::make_unique<Entry>(Entry{&operation, {}});
      last_ = entry.get();
    }
    return last_->spares;
  }

  struct Entry {
    const Operation* operation;
    Spares spares;
  };
  absl::flat_hash_map<const Operation*, std::unique_ptr<Entry>> spares_;
  Entry* last_ = nullptr;  // floods are of one operation
  size_t size_ = 0;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SPARE_REQUESTS_H_

#ifndef RUNLOOP_DAEMON_SPARE_REQUESTS_H_
#define RUNLOOP_DAEMON_SPARE_REQUESTS_H_

#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/operation_registry.h"

namespace runloop::daemon {

// Requests that have been handled, small ones, to be parsed into again: a flood would have the
// allocator make and free each on another thread. Only of operations whose requests keep little
// when they are cleared: a peer chooses what is in them. Not thread-safe.
class SpareRequests {
 public:
  // An empty one.
  std::unique_ptr<google::protobuf::Message> Get(const Operation& operation) {
    Spares& spares = EntryOf(operation).spares;
    if (spares.empty()) return operation.NewRequest();
    std::unique_ptr<google::protobuf::Message> request = std::move(spares.back());
    spares.pop_back();
    --size_;
    return request;
  }
  void Put(const Operation& operation, std::unique_ptr<google::protobuf::Message> request) {
    if (request == nullptr || size_ == kMost) return;
    Entry& entry = EntryOf(operation);
    if (!entry.kept) return;
    request->Clear();
    entry.spares.push_back(std::move(request));
    ++size_;
  }
  // Keeps at most so many.
  void TrimTo(size_t count) {
    if (size_ > count) Clear();
  }
  void Clear() {
    last_ = nullptr;
    spares_.clear();
    size_ = 0;
  }

 private:
  using Spares = std::vector<std::unique_ptr<google::protobuf::Message>>;
  static constexpr size_t kMost = 16'384;
  static constexpr int kMostFields = 16, kMostDepth = 3;

  struct Entry {
    const Operation* operation;
    bool kept;
    Spares spares;
  };

  Entry& EntryOf(const Operation& operation) {
    if (last_ == nullptr || last_->operation != &operation) {
      std::unique_ptr<Entry>& entry = spares_[&operation];
      if (entry == nullptr) {
        const bool kept = KeepsLittle(*operation.method().input_type(), kMostDepth);
        entry = std::make_unique<Entry>(Entry{&operation, kept, {}});
      }
      last_ = entry.get();
    }
    return *last_;
  }

  // A cleared message keeps the elements of its repeated fields, and its messages.
  static bool KeepsLittle(const google::protobuf::Descriptor& type, int depth) {
    if (depth == 0 || type.field_count() > kMostFields) return false;
    for (int i = 0; i < type.field_count(); ++i) {
      const google::protobuf::FieldDescriptor& field = *type.field(i);
      if (field.is_repeated()) return false;
      if (field.message_type() != nullptr && !KeepsLittle(*field.message_type(), depth - 1)) {
        return false;
      }
    }
    return true;
  }

  absl::flat_hash_map<const Operation*, std::unique_ptr<Entry>> spares_;
  Entry* last_ = nullptr;  // floods are of one operation
  size_t size_ = 0;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SPARE_REQUESTS_H_

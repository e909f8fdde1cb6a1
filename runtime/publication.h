#ifndef RUNLOOP_RUNTIME_PUBLICATION_H_
#define RUNLOOP_RUNTIME_PUBLICATION_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/call_once.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "runloop/runtime/topic.h"

namespace runloop::internal {

// One message that was published, shared by all who get it. Safe from any thread.
class Publication {
 public:
  // In the process that publishes it. `message` is of the topic's type.
  Publication(std::shared_ptr<const Topic> topic,
              std::shared_ptr<const google::protobuf::Message> message, absl::Time time)
      : topic_(std::move(topic)),
        message_(std::move(message)),
        time_(time),
        size_(message_->ByteSizeLong()) {}
  // As it came from there: another process's bytes, which may be no message of the type.
  Publication(std::string bytes, absl::Time time)
      : time_(time), size_(bytes.size()), bytes_(std::move(bytes)) {}

  // Null: it came from another process.
  const std::shared_ptr<const Topic>& topic() const { return topic_; }
  const std::shared_ptr<const google::protobuf::Message>& message() const { return message_; }
  // Serialized, by the first who asks.
  const std::string& bytes() const {
    if (message_ != nullptr) {
      absl::call_once(serialized_, [this] { message_->SerializeToString(&bytes_); });
    }
    return bytes_;
  }
  // Of bytes().
  size_t size() const { return size_; }
  // Of day.
  absl::Time time() const { return time_; }

 private:
  const std::shared_ptr<const Topic> topic_;
  const std::shared_ptr<const google::protobuf::Message> message_;
  const absl::Time time_;
  const size_t size_;
  mutable absl::once_flag serialized_;
  mutable std::string bytes_;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_PUBLICATION_H_

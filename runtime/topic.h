#ifndef RUNLOOP_RUNTIME_TOPIC_H_
#define RUNLOOP_RUNTIME_TOPIC_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "google/protobuf/descriptor.h"

namespace runloop {

struct TopicOptions {
  // Only the newest matters, as of progress: while a subscriber does not take it, a newer message
  // takes the place of the one that waits.
  bool latest = false;
};

// Something that the host publishes messages on, and workers subscribe to. Constant once the
// runtime exists, but for the counts. Safe from any thread.
class Topic {
 public:
  Topic(std::string name, const google::protobuf::Descriptor* type, TopicOptions options)
      : name_(std::move(name)), type_(type), options_(options) {}

  // `package.Something/Word`.
  const std::string& name() const { return name_; }
  // Of each message that is published.
  const google::protobuf::Descriptor& type() const { return *type_; }
  bool latest() const { return options_.latest; }

  // Written by the runtime, read by status.
  struct Statistics {
    std::atomic<uint64_t> published{0};      // whether anybody wanted it or not
    std::atomic<uint64_t> subscriptions{0};  // now
    // Of what was meant for one subscription each: taken by it, dropped because it did not take,
    // and gave its place to a newer one.
    std::atomic<uint64_t> delivered{0}, dropped{0}, replaced{0};
  };
  Statistics& statistics() const { return statistics_; }

 private:
  const std::string name_;
  const google::protobuf::Descriptor* const type_;
  const TopicOptions options_;
  mutable Statistics statistics_;
};

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_TOPIC_H_

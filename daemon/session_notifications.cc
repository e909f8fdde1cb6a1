#include "runloop/daemon/session_notifications.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "runloop/daemon/durations.h"
#include "runloop/daemon/session_request_reader.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

// What one response holds of them beside outcomes, or one notification.
constexpr size_t kResponseBytes = size_t{64} << 10;
constexpr int kResponseItems = 256;
// What one notification or result counts for beside its payload.
constexpr size_t kItemBytes = 64;

}  // namespace

NotificationBounds QueueBounds(const internal::NotificationHub& hub, int64_t max_message_bytes) {
  NotificationBounds bounds = hub.bounds();
  bounds.bytes = std::min(bounds.bytes, static_cast<size_t>(max_message_bytes / 4));
  return bounds;
}

SessionNotifications::SessionNotifications(internal::RuntimeCore& core,
                                           std::shared_ptr<Session> session,
                                           int64_t max_message_bytes, std::function<void()> wake)
    : core_(core),
      session_(std::move(session)),
      max_message_bytes_(max_message_bytes),
      wake_(std::move(wake)) {}

absl::Status SessionNotifications::Handle(const v1::SessionRequest& request) {
  // First, for the room that they make.
  absl::flat_hash_set<uint64_t> ended;
  for (const v1::Unsubscribe& unsubscribe : request.unsubscribes()) {
    const uint64_t id = unsubscribe.subscription_id();
    ended.insert(id);
    const auto topic = topics_.find(id);
    if (topic == topics_.end()) continue;
    core_.hub().Unsubscribe(*queue_, id, *topic->second);
    topics_.erase(topic);
  }
  for (const v1::Subscribe& subscribe : request.subscribes()) {
    const uint64_t id = subscribe.subscription_id();
    if (id != 0 && id <= passed_over_) continue;
    if (id <= last_id_) {
      return Violation(absl::StrCat("subscription id ", id, " came after ", last_id_,
                                    "; ids start at 1 and rise"));
    }
    last_id_ = id;
    v1::SubscribeResult& result = results_.emplace_back();
    result.set_subscription_id(id);
    // One that ends at once takes no room.
    const absl::Status status =
        ended.contains(id) ? FindTopic(subscribe).status() : Subscribe(subscribe);
    if (!status.ok()) *result.mutable_status() = runloop::ToProto(status);
    result_bytes_ += kItemBytes + result.ByteSizeLong();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const Topic>> SessionNotifications::FindTopic(
    const v1::Subscribe& subscribe) const {
  const auto& topics = core_.hub().topics();
  switch (subscribe.topic_case()) {
    case v1::Subscribe::kTopicId: {
      const uint32_t id = subscribe.topic_id();
      if (id >= 1 && id <= topics.size()) return topics[id - 1];
      return MakeError(
          absl::StatusCode::kNotFound, v1::ERROR_REASON_UNKNOWN_TOPIC,
          absl::StrCat("no topic has the id ", id, "; welcome.topics lists those there are"));
    }
    case v1::Subscribe::kTopicName:
      return core_.hub().Find(subscribe.topic_name());
    case v1::Subscribe::TOPIC_NOT_SET:
      break;
  }
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                   "the subscription names no topic");
}

absl::Status SessionNotifications::Subscribe(const v1::Subscribe& subscribe) {
  absl::StatusOr<std::shared_ptr<const Topic>> topic = FindTopic(subscribe);
  if (!topic.ok()) return topic.status();
  if (queue_ == nullptr) {
    queue_ = std::make_shared<internal::NotificationQueue>(
        QueueBounds(core_.hub(), max_message_bytes_), wake_, session_);
    (void)queue_->Sleep();
    if (finished_) queue_->Finish();
  }
  absl::Status status = core_.hub().Subscribe(queue_, subscribe.subscription_id(), *topic);
  if (status.ok()) topics_[subscribe.subscription_id()] = *std::move(topic);
  return status;
}

void SessionNotifications::Restart() {
  for (const auto& [id, topic] : topics_) core_.hub().Unsubscribe(*queue_, id, *topic);
  topics_.clear();
  queue_.reset();
  finished_ = false;
  results_.clear();
  result_bytes_ = 0;
  passed_over_ = last_id_;
}

bool SessionNotifications::Fill(v1::SessionResponse& response) {
  const size_t most = std::min(kResponseBytes, static_cast<size_t>(max_message_bytes_ / 8));
  size_t bytes = 0;
  for (; !results_.empty() && bytes < most; results_.pop_front()) {
    const size_t size = kItemBytes + results_.front().ByteSizeLong();
    bytes += size;
    result_bytes_ -= size;
    *response.add_subscribe_results() = std::move(results_.front());
  }
  // None comes before its subscription's result.
  if (queue_ == nullptr || !results_.empty()) return bytes > 0;
  bool any = bytes > 0;
  for (int i = 0; i < kResponseItems && bytes < most; ++i) {
    const auto taken = i == 0 ? queue_->Take() : queue_->Take(most - bytes);
    if (!taken.has_value()) break;
    v1::Notification& notification = *response.add_notifications();
    notification.set_subscription_id(taken->subscription);
    notification.set_sequence(taken->sequence);
    notification.set_payload(taken->publication->bytes());
    notification.set_dropped(taken->dropped);
    *notification.mutable_publish_time() = ToProto(taken->publication->time());
    bytes += kItemBytes + taken->publication->size();
    any = true;
  }
  return any;
}

bool SessionNotifications::Sleep() {
  if (!results_.empty()) return false;
  return queue_ == nullptr || queue_->Sleep() || !queue_->status().ok();
}

bool SessionNotifications::has_any() const {
  return !results_.empty() || (queue_ != nullptr && !queue_->empty());
}

void SessionNotifications::Finish() {
  finished_ = true;
  if (queue_ != nullptr) queue_->Finish();
}

}  // namespace runloop::daemon

#include "runloop/runtime/local_subscription.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/strings.h"

namespace runloop::internal {
namespace {

class LocalSubscription final : public SubscriptionState {
 public:
  LocalSubscription(Call call, std::weak_ptr<RuntimeCore> core,
                    std::shared_ptr<const Topic> subscribed)
      : SubscriptionState(std::move(call)), core_(std::move(core)), topic_(std::move(subscribed)) {}

  absl::Status Subscribe(NotificationHub& hub, std::shared_ptr<Session> session) {
    Begin(std::move(session));
    return hub.Subscribe(queue(), kNumber, topic_);
  }

 private:
  static constexpr uint64_t kNumber = 1;  // the only one of its queue

  void PostCallbacks(absl::AnyInvocable<void() &&> run) override {
    if (const std::shared_ptr<RuntimeCore> core = core_.lock()) {
      core->hub().callbacks().Post(std::move(run));
    }
  }
  void Unsubscribe() override {
    if (const std::shared_ptr<RuntimeCore> core = core_.lock()) {
      core->hub().Unsubscribe(*queue(), kNumber, *topic_);
    }
  }

  const std::weak_ptr<RuntimeCore> core_;
  const std::shared_ptr<const Topic> topic_;
};

}  // namespace

absl::Status WrongTopicType(std::string_view topic, std::string_view type,
                            std::string_view wanted) {
  return MakeError(
      absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
      absl::StrCat(View(topic), " is a topic of ", View(type), ", not of ", View(wanted)));
}

absl::StatusOr<std::shared_ptr<SubscriptionState>> SubscribeLocally(
    const std::shared_ptr<RuntimeCore>& core, std::shared_ptr<Session> session,
    SubscriptionState::Call call) {
  absl::StatusOr<std::shared_ptr<const Topic>> topic = core->hub().Find(call.topic);
  if (!topic.ok()) return topic.status();
  if (&(*topic)->type() != call.type) {
    return WrongTopicType(call.topic, (*topic)->type().full_name(), call.type->full_name());
  }
  auto subscription = std::make_shared<LocalSubscription>(std::move(call), core, *std::move(topic));
  if (absl::Status status = subscription->Subscribe(core->hub(), std::move(session));
      !status.ok()) {
    return status;
  }
  return subscription;
}

}  // namespace runloop::internal

#ifndef RUNLOOP_RUNTIME_LOCAL_SUBSCRIPTION_H_
#define RUNLOOP_RUNTIME_LOCAL_SUBSCRIPTION_H_

#include <memory>

#include "absl/status/statusor.h"
#include "runloop/runtime/subscription.h"

namespace runloop::internal {

class RuntimeCore;

// Subscribes to a topic of a runtime in this process, in `session`: what is published from now on
// comes as it is. NOT_FOUND (UNKNOWN_TOPIC), INVALID_ARGUMENT: it has another type; ABORTED
// (SESSION_ENDED), UNAVAILABLE (RUNTIME_STOPPED).
absl::StatusOr<std::shared_ptr<SubscriptionState>> SubscribeLocally(
    const std::shared_ptr<RuntimeCore>& core, std::shared_ptr<Session> session,
    SubscriptionState::Call call);

// INVALID_ARGUMENT (INVALID_REQUEST), for a topic of another type.
absl::Status WrongTopicType(std::string_view topic, std::string_view type, std::string_view wanted);

}  // namespace runloop::internal

#endif  // RUNLOOP_RUNTIME_LOCAL_SUBSCRIPTION_H_

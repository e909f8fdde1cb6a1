#include "runloop/daemon/notification_service.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "runloop/daemon/durations.h"
#include "runloop/daemon/request_call.h"
#include "runloop/daemon/session_notifications.h"
#include "runloop/runtime/error.h"
#include "runloop/v1/notifications.pb.h"

namespace runloop::daemon {
namespace {

// Names of topics.
constexpr size_t kMaxSubscribeBytes = 4096;

absl::Status Draining() {
  return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING,
                   "the daemon is draining; subscribe again when its socket is back");
}

}  // namespace

// One stream. The first write are the headers, which say that it is subscribed.
class NotificationService::SubscribeCall final
    : public RequestCall<v1::SubscribeRequest, kMaxSubscribeBytes> {
 public:
  SubscribeCall(NotificationService& service, Call& call)
      : RequestCall(call), service_(service), link_(std::make_shared<Link>()) {
    link_->call = this;
    service_.calls_.insert(this);
  }
  ~SubscribeCall() override {
    link_->call = nullptr;
    service_.calls_.erase(this);
    OnGone();
  }

  // Once what waits has been written.
  void Stop() {
    stopping_ = true;
    if (queue_ == nullptr) return;
    queue_->Finish();
    Advance();
  }

 private:
  // What publishers reach it by, who may keep the queue for longer than it lives.
  struct Link {
    SubscribeCall* call = nullptr;  // the completion-queue thread only
  };

  void OnRequest(const v1::SubscribeRequest& request) override {
    if (absl::Status status = Subscribe(request); !status.ok()) {
      OnGone();
      call().Finish(status);
      return;
    }
    writing_ = true;
    call().SendHeaders();
  }

  absl::Status Subscribe(const v1::SubscribeRequest& request) {
    internal::RuntimeCore& core = *service_.core_;
    if (stopping_ || service_.stopped_ || core.GetThreadSnapshot().draining) return Draining();
    if (request.topics().empty()) {
      return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                       "the request names no topic; ListTopics lists those there are");
    }
    for (const std::string& name : request.topics()) {
      absl::StatusOr<std::shared_ptr<const Topic>> topic = core.hub().Find(name);
      if (!topic.ok()) return topic.status();
      if (std::find(topics_.begin(), topics_.end(), *topic) == topics_.end()) {
        topics_.push_back(*std::move(topic));
      }
    }
    absl::StatusOr<std::shared_ptr<Session>> session =
        service_.callers_.SessionOf(call().context());
    if (!session.ok()) return session.status();
    queue_ = std::make_shared<internal::NotificationQueue>(
        QueueBounds(core.hub(), service_.max_message_bytes_),
        [link = link_, completion = service_.completion_] {
          completion->Post([link] {
            if (link->call != nullptr) link->call->Advance();
          });
        },
        *std::move(session));
    for (size_t i = 0; i < topics_.size(); ++i) {
      if (absl::Status status = core.hub().Subscribe(queue_, i, topics_[i]); !status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  }

  // Starts whatever can be started now: a write, or the end.
  void Advance() {
    while (!writing_ && !finished_) {
      if (const auto taken = queue_->Take()) {
        Fill(*taken);
        writing_ = true;
        call().Write(SerializeToBytes(response_));
      } else if (absl::Status ended = queue_->status(); !ended.ok() || stopping_) {
        finished_ = true;
        call().Finish(ended.ok() ? Draining() : ended);
      } else if (queue_->Sleep()) {
        return;
      }
    }
  }

  void Fill(const internal::QueuedNotification& taken) {
    const Topic& topic = *topics_[taken.subscription];
    response_.set_topic(topic.name());
    response_.set_sequence(taken.sequence);
    response_.set_dropped(taken.dropped);
    *response_.mutable_publish_time() = ToProto(taken.publication->time());
    response_.mutable_message()->set_type_url("type.googleapis.com/" + topic.type().full_name());
    response_.mutable_message()->set_value(taken.publication->bytes());
  }

  void OnWritten(bool ok) override {
    writing_ = false;
    if (ok) Advance();  // else OnGone follows
  }
  void OnGone() override {
    if (queue_ == nullptr) return;
    finished_ = true;
    service_.core_->hub().Remove(*queue_);
    (void)queue_->Drop(absl::CancelledError());
  }

  NotificationService& service_;
  const std::shared_ptr<Link> link_;
  std::vector<std::shared_ptr<const Topic>> topics_;    // subscriptions, by their numbers
  std::shared_ptr<internal::NotificationQueue> queue_;  // null before the request
  v1::SubscribeResponse response_;
  bool writing_ = false;
  bool stopping_ = false;
  bool finished_ = false;
};

NotificationService::NotificationService(std::shared_ptr<internal::RuntimeCore> core,
                                         const Callers& callers,
                                         std::shared_ptr<CompletionThread> completion,
                                         int64_t max_message_bytes)
    : core_(std::move(core)),
      callers_(callers),
      completion_(std::move(completion)),
      max_message_bytes_(max_message_bytes) {}

std::unique_ptr<CallHandler> NotificationService::NewListTopics(Call& call) const {
  return NewRequestCall<v1::ListTopicsRequest, v1::ListTopicsResponse>(
      call, [this](Call&, const v1::ListTopicsRequest&, v1::ListTopicsResponse& response) {
        for (const std::shared_ptr<const Topic>& topic : core_->hub().topics()) {
          v1::Topic& listed = *response.add_topics();
          listed.set_name(topic->name());
          listed.set_message_type(topic->type().full_name());
          listed.set_latest(topic->latest());
        }
        return absl::OkStatus();
      });
}

std::unique_ptr<CallHandler> NotificationService::NewSubscribe(Call& call) {
  return std::make_unique<SubscribeCall>(*this, call);
}

void NotificationService::Stop() {
  completion_->Post([this] {
    stopped_ = true;
    for (SubscribeCall* const call : std::vector<SubscribeCall*>(calls_.begin(), calls_.end())) {
      call->Stop();
    }
  });
}

}  // namespace runloop::daemon

#include "runloop/tests/sequence/message_session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/durations.h"
#include "runloop/runtime/error.h"

namespace runloop::sequence {

std::vector<MessageSession::Outcome> MessageSession::Say(const v1::SessionRequest& request) {
  for (const v1::Dispatch& dispatch : request.dispatches()) {
    last_id_ = dispatch.invocation_id();
    pending_[last_id_] = dispatch.reply_wanted();
  }
  return SayBytes(request.SerializeAsString(), true);
}

std::vector<MessageSession::Outcome> MessageSession::SayOfSubscriptions() {
  const std::string request = subscriptions_.TakeRequest();
  return request.empty() ? std::vector<Outcome>() : SayBytes(request, false);
}

std::vector<MessageSession::Outcome> MessageSession::SayBytes(const std::string& request,
                                                              bool again) {
  const Cut cut = cut_ == Cut::kHeard ? Cut::kNone : std::exchange(cut_, Cut::kNone);
  if (cut == Cut::kNone || ends() || ended()) {
    Send(request);
  } else {
    LoseConnection(cut, request, again);
  }
  return CarryAll();
}

std::vector<MessageSession::Outcome> MessageSession::Hear() {
  if (cut_ == Cut::kHeard) {
    cut_ = Cut::kNone;
    if (!ends() && !ended()) LoseConnection(Cut::kHeard, "", false);
  }
  return CarryAll();
}

void MessageSession::LoseConnection(Cut cut, const std::string& request, bool again) {
  if (cut != Cut::kRequest) {
    if (!request.empty()) Send(request);
    CarryUnheard();
  }
  subscriptions_.LoseConnection();
  Reconnect(outcomes_received_);
  // What the daemon has of it, it passes over.
  if (!request.empty() && again) Send(request);
  subscriptions_.Resume();
  if (const std::string anew = subscriptions_.TakeRequest(); !anew.empty()) Send(anew);
}

std::vector<MessageSession::Outcome> MessageSession::CarryAll() {
  Carry();
  const int drains = drain_.has_value() ? 1 : 0;
  Expect(drains_heard_ == drains,
         absl::StrCat("the worker was told ", drains_heard_, " times that the daemon drains"));
  return std::exchange(heard_, {});
}

void MessageSession::EndRequests() {
  if (!std::exchange(requests_ended_, true)) TellEndOfRequests();
}

void MessageSession::Leave(bool cut) {
  End(cut);
  subscriptions_.End();
}

void MessageSession::BeginDrain(absl::Duration left) {
  if (drain_.has_value()) return;
  drain_ = left;
  TellDrain(left);
}

bool MessageSession::OnResponse(std::string_view bytes) {
  v1::SessionResponse response;
  if (!response.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    Fail("a response that is none");
    return false;
  }
  Expect(!response.has_welcome(), "a second welcome");
  const bool has_notifications = !response.notifications().empty();  // which are taken now
  if (absl::Status status = subscriptions_.Receive(response); !status.ok()) {
    Fail(std::string(status.message()));
  }
  // A worker may take the two in either order.
  ranges_first_ = !ranges_first_;
  if (ranges_first_ && response.has_succeeded()) OnSucceeded(response.succeeded());
  for (const v1::Outcome& outcome : response.outcomes()) OnOutcome(outcome);
  if (!ranges_first_ && response.has_succeeded()) OnSucceeded(response.succeeded());
  if (response.has_draining()) OnDraining(response.draining());
  return has_notifications;
}

void MessageSession::OnDraining(const v1::Draining& draining) {
  ++drains_heard_;
  const absl::StatusOr<absl::Duration> left = daemon::FromProto(draining.deadline());
  Expect(drain_.has_value() && left.ok() && *left == *drain_, "the daemon drains otherwise");
}

void MessageSession::OnOutcome(const v1::Outcome& outcome) {
  ++outcomes_received_;
  const uint64_t id = outcome.invocation_id();
  if (id == 0 || id > last_id_) return Fail(absl::StrCat("an outcome of no invocation: ", id));
  // If it has another one, it is for those who compare them to say so.
  const auto pending = pending_.extract(id);
  Outcome heard{.id = id};
  if (outcome.has_reply()) {
    heard.reply = outcome.reply();
    Expect(pending.empty() || pending.mapped(), absl::StrCat(id, " got a reply unasked"));
  } else {
    heard.status = FromProto(outcome.status());
    Expect(!heard.status.ok(), absl::StrCat(id, " has neither a reply nor an error"));
  }
  heard_.push_back(std::move(heard));
}

void MessageSession::OnSucceeded(const v1::InvocationRanges& ranges) {
  uint64_t last = ranges.watermark();
  for (const v1::InvocationRange& range : ranges.ranges()) {
    Expect(range.first() > last && range.last() >= range.first(), "ranges that do not rise");
    last = range.last();
  }
  Expect(last <= last_id_, "what was never dispatched has succeeded");
  const auto in_set = [&](uint64_t id) {
    if (id <= ranges.watermark()) return true;
    for (const v1::InvocationRange& range : ranges.ranges()) {
      if (id >= range.first() && id <= range.last()) return true;
    }
    return false;
  };
  std::erase_if(pending_, [&](const auto& pending) {
    if (!in_set(pending.first)) return false;
    Expect(!pending.second, absl::StrCat(pending.first, " succeeded, and its reply is missing"));
    heard_.push_back({.id = pending.first});
    return true;
  });
}

}  // namespace runloop::sequence

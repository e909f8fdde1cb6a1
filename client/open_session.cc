#include "runloop/client/open_session.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "runloop/ipc/chain_codec.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop::internal {
namespace {

// The protocol lets one message hold as many, whatever the daemon's limits are.
constexpr size_t kMessageCancels = 1024;
// At most.
constexpr size_t kCancelBytes = 16;
// With more bytes unsent, nothing is added that is not needed.
constexpr size_t kMostUnsent = size_t{4} << 20;
constexpr size_t kMostHeldBack = 1024;
// The memory of so many messages is kept for later ones.
constexpr size_t kMostSpare = 8;
// After so many outcomes, or bytes of them, the daemon is told that they have come, and need not
// keep them; after so many bytes, at once.
constexpr uint64_t kAcknowledgeAfter = 128;
constexpr size_t kAcknowledgeBytes = size_t{256} << 10;
constexpr size_t kAcknowledgeAtOnce = size_t{2} << 20;
constexpr size_t kAcknowledgementBytes = 11;  // at most
// Of so many invocations it is remembered who waits for them, before those that have ended are
// forgotten.
constexpr size_t kRememberedWaiting = 64;

// What an outcome says; OK with a status in it is not one.
absl::StatusOr<absl::StatusOr<Reply>> ReadOutcome(v1::Outcome& outcome) {
  switch (outcome.result_case()) {
    case v1::Outcome::kReply:
      return Reply{.bytes = std::move(*outcome.mutable_reply()), .has_bytes = true};
    case v1::Outcome::kStatus: {
      absl::Status status = FromProto(outcome.status());
      if (!status.ok()) return absl::StatusOr<Reply>(std::move(status));
      break;
    }
    case v1::Outcome::RESULT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("an outcome without result");
}

absl::Duration ReadDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

absl::flat_hash_map<std::string, uint32_t> ReadOperations(const v1::Welcome& welcome) {
  absl::flat_hash_map<std::string, uint32_t> ids;
  for (const v1::OperationId& operation : welcome.operations()) {
    ids[operation.name()] = operation.id();
  }
  return ids;
}

}  // namespace

OpenSession::OpenSession(const v1::Welcome& welcome, size_t message_bytes)
    : id_(welcome.session_id()),
      resume_token_(welcome.resume_token()),
      resume_grace_(ReadDuration(welcome.resume_grace())),
      limits_(welcome.limits()),
      message_bytes_(message_bytes),
      most_messages_(kMostUnsent / message_bytes),
      operation_ids_(ReadOperations(welcome)),
      last_operation_(operation_ids_.end()) {
  for (const auto& [name, id] : operation_ids_) operation_names_[id] = &name;
}

Amount Amount::Of(absl::Span<const RequestWriter::Dispatch> dispatches) {
  Amount amount{.invocations = dispatches.size(), .batch = dispatches.front().batch_size != 0};
  for (const RequestWriter::Dispatch& dispatch : dispatches) {
    amount.request_bytes += dispatch.request_size();
    amount.charge += static_cast<int64_t>(RemoteInvocation::ChargeOf(dispatch.request_size()));
  }
  return amount;
}

bool OpenSession::HasRoom(const Amount& more, size_t others) const {
  return (limits_.max_unfinished() == 0 ||
          unfinished_.size() + others + more.invocations <= limits_.max_unfinished()) &&
         (limits_.max_unfinished_bytes() == 0 ||
          (more.request_bytes <= limits_.max_unfinished_bytes() &&
           unfinished_.request_bytes() <= limits_.max_unfinished_bytes() - more.request_bytes));
}

absl::Status OpenSession::CheckBatch(uint64_t invocations) const {
  if (limits_.max_batch() == 0) {
    return MakeError(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_VERSION_MISMATCH,
                     "the daemon knows no batches: update it");
  }
  const bool in_one = invocations > limits_.max_batch();
  const uint64_t most = in_one ? limits_.max_batch() : limits_.max_unfinished();
  if (most == 0 || invocations <= most) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_MESSAGE_TOO_LARGE,
      absl::StrCat("a batch of ", invocations, " invocations; the daemon allows ", most,
                   in_one ? " in one" : " unfinished in one session", ": dispatch several"),
      {{"bound", in_one ? "batch" : "session"}, {"limit", absl::StrCat(most)}});
}

absl::Status OpenSession::CheckFits(const Amount& more) const {
  if (more.batch) {
    if (absl::Status batch = CheckBatch(more.invocations); !batch.ok()) return batch;
  }
  const uint64_t limit = limits_.max_unfinished_bytes();
  if (limit == 0 || more.request_bytes <= limit) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_MESSAGE_TOO_LARGE,
      absl::StrCat(more.batch ? "a batch" : "a request", " of ", more.request_bytes,
                   " bytes; the daemon allows ", limit, " bytes of them unfinished in one session"),
      {{"bound", "session"}, {"limit", absl::StrCat(limit)}});
}

absl::Status OpenSession::CheckRoom(const Amount& more, size_t others) const {
  if (absl::Status fits = CheckFits(more); !fits.ok()) return fits;
  if (HasRoom(more, others)) return absl::OkStatus();
  if (limits_.max_unfinished() != 0 &&
      unfinished_.size() + others + more.invocations > limits_.max_unfinished()) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
        absl::StrCat("this session has ", unfinished_.size() + others,
                     " invocations unfinished; the daemon allows ", limits_.max_unfinished(),
                     more.batch ? absl::StrCat(", and this batch has ", more.invocations) : "",
                     ": await some"),
        {{"bound", "session"}, {"limit", absl::StrCat(limits_.max_unfinished())}});
  }
  const uint64_t limit = limits_.max_unfinished_bytes();
  return MakeError(
      absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
      absl::StrCat("this session has ", unfinished_.request_bytes(),
                   " bytes of requests unfinished, the daemon allows ", limit, ": await some"),
      {{"bound", "session"}, {"limit", absl::StrCat(limit)}});
}

absl::Status OpenSession::CheckSize(absl::Span<RequestWriter::Dispatch> dispatches) const {
  size_t size = 0;
  for (RequestWriter::Dispatch& dispatch : dispatches) {
    dispatch.operation_id = IdOf(dispatch.operation_name);
    // About as long as it will be.
    dispatch.invocation_id = dispatches.front().invocation_id;
    dispatch.call_site_id = CallSiteTable::kMost;
    size += RequestWriter::SizeOf(dispatch);
  }
  return CheckMessageBytes(size);
}

absl::Status OpenSession::Add(absl::Span<const std::shared_ptr<RemoteInvocation>> invocations,
                              absl::Span<RequestWriter::Dispatch> dispatches) {
  if (absl::Status status = CheckRoom(Amount::Of(dispatches)); !status.ok()) return status;
  size_t size = 0;
  for (RequestWriter::Dispatch& dispatch : dispatches) {
    if (dispatch.batch_size != 0) {
      // Some may have been taken out of it.
      const bool first = &dispatch == &dispatches.front();
      dispatch.batch_size = first ? static_cast<uint32_t>(dispatches.size()) : 0;
      dispatch.stop_at_failure &= first;
    }
    dispatch.operation_id = IdOf(dispatch.operation_name);
    // Those that are new in a batch get theirs later, one after the other: as long as it may be.
    dispatch.call_site_id =
        dispatches.size() == 1 ? CallSiteIdOf(dispatch.call_site) : CallSiteTable::kMost;
    size += RequestWriter::SizeOf(dispatch);
  }
  if (absl::Status status = CheckMessageBytes(size); !status.ok()) return status;
  for (RequestWriter::Dispatch& dispatch : dispatches) {
    dispatch.call_site_id = CallSiteIdOf(dispatch.call_site);
    TellCallSite(dispatch.call_site, dispatch.call_site_id);
  }
  RequestWriter& message = MessageFor(size);
  for (size_t i = 0; i < dispatches.size(); ++i) {
    RequestWriter::Dispatch& dispatch = dispatches[i];
    message.AddDispatch(dispatch);
    RemoteInvocation& invocation = *invocations[i];
    invocation.operation_id = dispatch.operation_id;
    if (dispatch.operation_id == 0) {
      if (invocation.extra == nullptr) {
        invocation.extra = std::make_unique<RemoteInvocation::Extra>();
      }
      invocation.extra->operation = std::move(dispatch.operation_name);
    }
    unfinished_.Add(invocations[i], dispatch.request_size());
  }
  return absl::OkStatus();
}

bool OpenSession::AddCancel(RemoteInvocation& invocation, bool give_up) {
  if (!unfinished_.Contains(invocation.id)) return false;
  const bool asked = give_up ? invocation.given_up : invocation.cancel_sent;
  if (give_up) {
    invocation.given_up = true;
  } else {
    invocation.cancel_sent = true;
  }
  if (asked || half_closed_) return true;
  MessageFor(kCancelBytes).AddCancel(invocation.id, give_up);
  return true;
}

void OpenSession::AddWaiting(const RemoteInvocation& invocation, const Chain& chain) {
  if (half_closed_ || !unfinished_.Contains(invocation.id)) return;
  v1::Waiting waiting;
  waiting.set_invocation_id(invocation.id);
  WriteChain(chain, *waiting.mutable_chain());
  if (limits_.max_message_bytes() != 0 &&
      waiting.ByteSizeLong() > limits_.max_message_bytes() / 2) {
    waiting.clear_chain();
    WriteChain({chain.back()}, *waiting.mutable_chain());
  }
  if (resumable()) {
    if (waiting_.size() >= kRememberedWaiting) {
      absl::erase_if(waiting_, [&](const auto& each) { return !unfinished_.Contains(each.first); });
    }
    waiting_[invocation.id] = waiting;
  }
  if (messages_.size() <= most_messages_) {
    MessageFor(waiting.ByteSizeLong()).AddMessage(v1::SessionRequest::kWaitingFieldNumber, waiting);
  } else if (held_back_.size() < kMostHeldBack) {
    held_back_.push_back(std::move(waiting));  // a peer that does not read costs no more than that
  }
}

absl::Status OpenSession::AddSubscribe(const v1::Subscribe& subscribe, bool must) {
  if (half_closed_) {
    return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_NOT_CONNECTED,
                     "the session is being closed");
  }
  if (!must && messages_.size() > most_messages_) {
    return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
                     "the daemon does not read: try again when it does");
  }
  MessageForSubscriptions().AddMessage(v1::SessionRequest::kSubscribesFieldNumber, subscribe);
  return absl::OkStatus();
}

void OpenSession::AddUnsubscribe(uint64_t subscription_id) {
  if (half_closed_) return;
  v1::Unsubscribe unsubscribe;
  unsubscribe.set_subscription_id(subscription_id);
  MessageForSubscriptions().AddMessage(v1::SessionRequest::kUnsubscribesFieldNumber, unsubscribe);
}

bool OpenSession::HasOutgoing() const {
  return !writing_ && !write_failed_ &&
         (!messages_.empty() || (unacknowledged_bytes_ >= kAcknowledgeAtOnce && !half_closed_) ||
          (!half_closed_ && (closing_ || !held_back_.empty())));
}

std::optional<OpenSession::Outgoing> OpenSession::NextOutgoing() {
  if (!HasOutgoing()) return std::nullopt;
  for (; !held_back_.empty() && !half_closed_ && messages_.size() <= most_messages_;
       held_back_.pop_front()) {
    const v1::Waiting& waiting = held_back_.front();
    if (!unfinished_.Contains(waiting.invocation_id())) continue;
    MessageFor(waiting.ByteSizeLong()).AddMessage(v1::SessionRequest::kWaitingFieldNumber, waiting);
  }
  const bool acknowledges = resumable() && !half_closed_ &&
                            (outcomes_received_ - outcomes_acknowledged_ >= kAcknowledgeAfter ||
                             unacknowledged_bytes_ >= kAcknowledgeBytes);
  // Without room for it in the next message it goes in one of its own.
  if (acknowledges &&
      (messages_.empty() ? unacknowledged_bytes_ >= kAcknowledgeAtOnce
                         : messages_.front().size() + kAcknowledgementBytes > bound())) {
    messages_.emplace_front();
  }
  Outgoing outgoing;
  if (!messages_.empty()) {
    sending_ = std::move(messages_.front());
    messages_.pop_front();
    if (acknowledges) {
      sending_->AddOutcomesReceived(outcomes_received_);
      NoteAcknowledged();
    }
    last_sent_id_ = std::max(last_sent_id_, sending_->last_id());
    outgoing.message = &*sending_;
  } else if (closing_ && !half_closed_) {
    half_closed_ = true;
    outgoing.half_close = true;
  } else {
    return std::nullopt;
  }
  writing_ = true;
  return outgoing;
}

void OpenSession::Sent(bool copied) {
  // What holds no dispatch is said anew by Resume, as far as it still matters.
  if (resumable() && sending_->last_id() != 0) {
    SentMessage& sent = sent_.emplace_back();
    sent.message = std::move(*sending_);
    sent.copied = copied;
  } else if (copied) {
    GiveBack(*sending_);
  }
  sending_.reset();
}

void OpenSession::TakenIn(uint64_t id) {
  while (!sent_.empty() && sent_.front().message.last_id() <= id) {
    if (sent_.front().copied) GiveBack(sent_.front().message);
    sent_.pop_front();
  }
}

void OpenSession::GiveBack(RequestWriter& message) {
  if (spare_messages_.size() >= kMostSpare) return;
  message.Clear();
  spare_messages_.push_back(std::move(message));
}

absl::Status OpenSession::Resume(const v1::Welcome& welcome) {
  const uint64_t taken_in = welcome.admitted().watermark();
  if (welcome.session_id() != id_ || taken_in > last_sent_id_) {
    return absl::InvalidArgumentError("the daemon resumes what was not asked for");
  }
  TakenIn(taken_in);
  for (; !sent_.empty(); sent_.pop_back()) {
    messages_.push_front(std::move(sent_.back().message));
  }
  writing_ = write_failed_ = half_closed_ = false;
  sending_.reset();
  NoteAcknowledged();  // by the hello
  // What was told beside dispatches may not have arrived.
  std::deque<RequestWriter> later;
  later.swap(messages_);
  for (const auto& [site, id] : call_site_ids_) AddCallSite(site, id);
  for (RequestWriter& message : later) {
    if (!message.of_subscriptions) messages_.push_back(std::move(message));
  }
  unfinished_.ForEach([&](RemoteInvocation& invocation) {
    if (invocation.cancel_sent) MessageFor(kCancelBytes).AddCancel(invocation.id, false);
    if (invocation.given_up) MessageFor(kCancelBytes).AddCancel(invocation.id, true);
  });
  for (auto& [id, waiting] : waiting_) {
    if (unfinished_.Contains(id)) held_back_.push_back(waiting);
  }
  return absl::OkStatus();
}

void OpenSession::NoteAcknowledged() {
  outcomes_acknowledged_ = outcomes_received_;
  unacknowledged_bytes_ = 0;
}

void OpenSession::SayWithoutRing() {
  MessageFor(kCancelBytes).AddOutcomesReceived(outcomes_received_);
}

absl::Status OpenSession::Receive(v1::SessionResponse& message, Finished& finished) {
  absl::Status violation;
  for (v1::Outcome& outcome : *message.mutable_outcomes()) {
    if (resumable()) {
      ++outcomes_received_;
      unacknowledged_bytes_ += outcome.ByteSizeLong();
    }
    absl::StatusOr<absl::StatusOr<Reply>> result = ReadOutcome(outcome);
    if (!result.ok()) {
      violation = result.status();
    } else if (outcome.invocation_id() == 0 || outcome.invocation_id() > last_sent_id_) {
      violation = absl::InvalidArgumentError(absl::StrCat(
          "an outcome for invocation ", outcome.invocation_id(), ", which was not sent"));
    } else if (auto invocation = unfinished_.Take(outcome.invocation_id()); invocation != nullptr) {
      // A reply crossed the word that gave it up, and what it names is released.
      if (invocation->stopped &&
          (result->ok() || ReasonOf(result->status()) == v1::ERROR_REASON_STILL_RUNNING)) {
        *result = StoppedWhileRunning(OperationOf(*invocation));
      }
      finished.outcomes.emplace_back(std::move(invocation), *std::move(result));
    }
    TakenIn(outcome.invocation_id());
  }
  const size_t replies_wanted = unfinished_.replies_wanted();
  if (absl::Status status =
          unfinished_.TakeRanges(message.succeeded(), last_sent_id_, finished.succeeded);
      !status.ok()) {
    violation = std::move(status);
  }
  if (unfinished_.replies_wanted() != replies_wanted) {
    violation = absl::InvalidArgumentError("a reply that was asked for did not come");
    std::erase_if(finished.succeeded, [&](std::shared_ptr<RemoteInvocation>& invocation) {
      if (!invocation->reply_wanted) return false;
      finished.outcomes.emplace_back(std::move(invocation), violation);
      return true;
    });
  }
  if (resumable() && violation.ok() && message.has_succeeded()) {
    const v1::InvocationRanges& ranges = message.succeeded();
    TakenIn(ranges.ranges().empty() ? ranges.watermark() : ranges.ranges().rbegin()->last());
  }
  if (message.has_draining()) draining_ = true;
  return violation;
}

OpenSession::Rest OpenSession::TakeRest() {
  Rest rest;
  rest.sent = unfinished_.TakeAll();
  const auto unsent =
      std::find_if(rest.sent.begin(), rest.sent.end(),
                   [this](const auto& invocation) { return invocation->id > last_sent_id_; });
  rest.unsent.assign(std::make_move_iterator(unsent), std::make_move_iterator(rest.sent.end()));
  rest.sent.erase(unsent, rest.sent.end());
  messages_.clear();
  sent_.clear();
  return rest;
}

const std::string& OpenSession::OperationOf(const RemoteInvocation& invocation) const {
  return invocation.operation_id != 0 ? *operation_names_.at(invocation.operation_id)
                                      : invocation.extra->operation;
}

uint32_t OpenSession::IdOf(const std::string& operation) const {
  if (last_operation_ == operation_ids_.end() || last_operation_->first != operation) {
    last_operation_ = operation_ids_.find(operation);
    if (last_operation_ == operation_ids_.end()) return 0;
  }
  return last_operation_->second;
}

uint32_t OpenSession::CallSiteIdOf(CallSite site) const {
  if (site == last_call_site_) return last_call_site_id_;
  if (!site.known()) return 0;
  const auto told = call_site_ids_.find(site);
  if (told != call_site_ids_.end()) return told->second;
  return call_site_ids_.size() < CallSiteTable::kMost
             ? static_cast<uint32_t>(call_site_ids_.size()) + 1
             : 0;
}

void OpenSession::TellCallSite(CallSite site, uint32_t id) {
  if (id == 0 || id == last_call_site_id_) return;
  last_call_site_ = site;
  last_call_site_id_ = id;
  if (call_site_ids_.try_emplace(site, id).second) AddCallSite(site, id);
}

void OpenSession::AddCallSite(CallSite site, uint32_t id) {
  v1::CallSite told;
  told.set_id(id);
  told.set_file(CleanText(site.file(), kMaxCallSiteText));
  told.set_line(site.line());
  told.set_function(CleanText(site.function(), kMaxCallSiteText));
  MessageFor(told.ByteSizeLong() + kCancelBytes)
      .AddMessage(v1::SessionRequest::kCallSitesFieldNumber, told);
}

absl::Status OpenSession::CheckMessageBytes(size_t size) const {
  if (limits_.max_message_bytes() == 0 || size <= limits_.max_message_bytes()) {
    return absl::OkStatus();
  }
  return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_MESSAGE_TOO_LARGE,
                   absl::StrCat("a message of ", size, " bytes; the daemon takes at most ",
                                limits_.max_message_bytes()),
                   {{"bound", "message"}, {"limit", absl::StrCat(limits_.max_message_bytes())}});
}

size_t OpenSession::bound() const {
  if (limits_.max_message_bytes() == 0) return message_bytes_;
  return std::min<uint64_t>(message_bytes_, limits_.max_message_bytes());
}

RequestWriter& OpenSession::MessageForSubscriptions() {
  if (messages_.empty() || !messages_.back().of_subscriptions ||
      messages_.back().size() + kCancelBytes > bound() ||
      messages_.back().cancels() >= kMessageCancels) {
    messages_.emplace_back();
    messages_.back().of_subscriptions = true;
  }
  return messages_.back();
}

RequestWriter& OpenSession::MessageFor(size_t bytes) {
  if (messages_.empty() || messages_.back().of_subscriptions ||
      messages_.back().size() + bytes > bound() || messages_.back().cancels() >= kMessageCancels) {
    if (spare_messages_.empty()) {
      messages_.emplace_back();
    } else {
      messages_.push_back(std::move(spare_messages_.back()));
      spare_messages_.pop_back();
    }
  }
  return messages_.back();
}

}  // namespace runloop::internal

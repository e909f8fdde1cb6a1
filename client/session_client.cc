#include "runloop/client/session_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/client/check_call.h"
#include "runloop/client/daemon_channel.h"
#include "runloop/ipc/chain_codec.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

// Chains that are kept for an invocation that has not been sent.
constexpr size_t kMaxWaiting = 4;

absl::Time Now() { return Clock::Monotonic()->Now(); }

absl::Status Cancelled() {
  return MakeError(absl::StatusCode::kCancelled, v1::ERROR_REASON_CANCELLED,
                   "cancelled before it was sent; it never runs");
}

}  // namespace

SessionClient::SessionClient(Options options)
    : options_(std::move(options)),
      first_deadline_(Now() + options_.connect_timeout),
      failure_(NoAnswer(options_.address)) {}

absl::Status SessionClient::WaitUntilConnected() {
  MutexLock lock(&mutex_);
  mutex_.Await([this] {
    mutex_.AssertHeld();
    return first_result_.has_value();
  });
  return *first_result_;
}

std::shared_ptr<SessionBuffers> SessionClient::buffers() const {
  MutexLock lock(&mutex_);
  return buffers_;
}

namespace {

// What few calls have, as fields of a v1.Dispatch.
std::string MoreFields(const DispatchTarget::Call& call) {
  const bool delayed = call.delay > absl::ZeroDuration();
  if (call.chain.empty() && !delayed && call.trace_parent == nullptr) return "";
  v1::Dispatch dispatch;
  WriteChain(call.chain, *dispatch.mutable_chain());
  if (delayed) {
    // As long as can be said, and not shorter than asked.
    constexpr absl::Duration kLongest = absl::Seconds(315'576'000'000);
    absl::Duration rest =
        std::min(absl::Ceil(std::min(call.delay, kLongest), absl::Nanoseconds(1)), kLongest);
    dispatch.mutable_delay()->set_seconds(absl::IDivDuration(rest, absl::Seconds(1), &rest));
    dispatch.mutable_delay()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  }
  if (call.trace_parent != nullptr) dispatch.set_trace_parent(*call.trace_parent);
  return dispatch.SerializeAsString();
}

// Takes the names out of `call` and refers to its request.
RequestWriter::Dispatch DispatchOf(DispatchTarget::Call& call) {
  RequestWriter::Dispatch dispatch{.operation_name = std::move(call.operation),
                                   .timeout = call.timeout,
                                   .reply_wanted = call.reply_wanted,
                                   .call_site = call.call_site,
                                   .coalesce_key = std::move(call.coalesce_key),
                                   .more_fields = MoreFields(call)};
  dispatch.SetRequest(*call.request);
  return dispatch;
}

}  // namespace

std::shared_ptr<RemoteInvocation> SessionClient::Dispatch(DispatchTarget::Call& call,
                                                          std::shared_ptr<SessionStream>* turn) {
  absl::Status refusal = CheckCall(call);
  RequestWriter::Dispatch dispatch = refusal.ok() ? DispatchOf(call) : RequestWriter::Dispatch();
  std::shared_ptr<RemoteInvocation> invocation;
  Outgoing outgoing;
  {
    MutexLock lock(&mutex_);
    invocation = allocator_.New(*this, call.reply_wanted);
    if (refusal.ok()) {
      refusal = Admit({&invocation, 1}, {&dispatch, 1}, call.when_full);
      outgoing = NextOutgoing();
      if (turn != nullptr && refusal.ok()) *turn = TakeTurn();
    }
  }
  outgoing.Send();
  if (!refusal.ok()) invocation->Finish(std::move(refusal));
  return invocation;
}

std::vector<std::shared_ptr<RemoteInvocation>> SessionClient::DispatchBatch(
    std::vector<DispatchTarget::Call>& calls, bool stop_at_failure) {
  absl::Status refusal = CheckBatchSize(calls.size());
  std::vector<RequestWriter::Dispatch> dispatches;
  for (DispatchTarget::Call& call : calls) {
    if (refusal.ok()) refusal = CheckCall(call);
    if (!refusal.ok()) break;
    dispatches.push_back(DispatchOf(call));
    dispatches.back().batch_size = static_cast<uint32_t>(calls.size());
    dispatches.back().stop_at_failure = stop_at_failure;
  }
  std::vector<std::shared_ptr<RemoteInvocation>> invocations;
  Outgoing outgoing;
  {
    MutexLock lock(&mutex_);
    for (const DispatchTarget::Call& call : calls) {
      invocations.push_back(allocator_.New(*this, call.reply_wanted));
    }
    if (refusal.ok()) {
      refusal = Admit(invocations, absl::MakeSpan(dispatches), calls.front().when_full);
      outgoing = NextOutgoing();
    }
  }
  outgoing.Send();
  for (const auto& invocation : invocations) {
    if (!refusal.ok()) invocation->Finish(refusal);
  }
  return invocations;
}

bool SessionClient::Caller::may_go_on() const {
  if (client.stopped_) return true;
  if (client.callers_.front() != this) return false;
  if (client.session_ != nullptr && client.session_->draining()) return true;
  // With nothing unfinished there is as much room as there ever will be.
  return client.HasRoom(more) || client.unfinished_bytes() == 0;
}

absl::Status SessionClient::AwaitRoom(absl::Span<RequestWriter::Dispatch> dispatches) {
  const Amount more = Amount::Of(dispatches);
  if (callers_.empty() && HasRoom(more)) return absl::OkStatus();
  if (absl::Status status = CheckRoom(more);
      !status.ok() && ReasonOf(status) != v1::ERROR_REASON_QUEUE_FULL) {
    return status;
  }
  if (session_ != nullptr) {
    dispatches.front().invocation_id = last_id_ + 1;
    if (absl::Status status = session_->CheckSize(dispatches); !status.ok()) return status;
  }
  const absl::Duration timeout = dispatches.front().timeout;
  const absl::Time deadline = Now() + timeout;
  const Caller caller{.client = *this, .more = more};
  callers_.push_back(&caller);
  const auto may_go_on = [&caller] {
    caller.client.mutex_.AssertHeld();
    return caller.may_go_on();
  };
  const bool goes_on = mutex_.AwaitWithTimeout(may_go_on, timeout);
  callers_.erase(std::find(callers_.begin(), callers_.end(), &caller));
  const absl::Duration left = deadline - Now();
  for (RequestWriter::Dispatch& dispatch : dispatches) dispatch.timeout = left;
  if (goes_on && left > absl::ZeroDuration()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
                   "there was no room for one more request until its timeout passed: await some, "
                   "or give it more time");
}

absl::Status SessionClient::CheckTurn() const {
  if (callers_.empty()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
                   absl::StrCat("what room there is belongs to ", callers_.size(),
                                " callers that wait for it: await some"));
}

absl::Status SessionClient::Admit(absl::Span<const std::shared_ptr<RemoteInvocation>> invocations,
                                  absl::Span<RequestWriter::Dispatch> dispatches,
                                  WhenFull when_full) {
  const bool waits = when_full == WhenFull::kWait && !OnClientThread() && !OnARuntimeThread();
  if (absl::Status turn = waits ? AwaitRoom(dispatches) : CheckTurn(); !turn.ok()) return turn;
  if (stopped_) return NotConnected("the session was closed");
  if (session_ != nullptr && session_->draining()) {
    return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING,
                     "the daemon is draining and takes no new work; try again once it is back");
  }
  if (absl::Status status = CheckRoom(Amount::Of(dispatches)); !status.ok()) return status;
  uint64_t id = last_id_;
  for (size_t i = 0; i < invocations.size(); ++i) {
    invocations[i]->id = dispatches[i].invocation_id = ++id;
  }
  if (session_ != nullptr) {
    if (absl::Status status = session_->Add(invocations, dispatches); !status.ok()) {
      for (const auto& invocation : invocations) invocation->id = 0;  // others get theirs
      return status;
    }
  } else {
    const absl::Time now = Now();
    if (backlog_.size() == 0) wanted_ = true;
    for (size_t i = 0; i < invocations.size(); ++i) {
      RequestWriter::Dispatch& dispatch = dispatches[i];
      const absl::Time deadline = now + dispatch.timeout;
      const bool in_batch = dispatch.batch_size != 0;
      dispatch.OwnRequest();
      backlog_.Add({.invocation = invocations[i],
                    .dispatch = std::move(dispatch),
                    .deadline = deadline,
                    .connect_until = now + options_.connect_timeout,
                    .batch = in_batch ? invocations.front()->id : 0});
    }
    if (wanted_ || backlog_.next_due() < sleeps_until_) {
      // Once is enough until it has slept again.
      if (std::exchange(sleeps_until_, absl::InfinitePast()) != absl::InfinitePast()) {
        wake_.Signal();
      }
    }
  }
  last_id_ = id;
  return absl::OkStatus();
}

int64_t SessionClient::unfinished_bytes() const {
  int64_t bytes = backlog_.bytes();
  for (const auto* session : {&session_, &suspended_}) {
    if (*session != nullptr) bytes += (*session)->unfinished().bytes();
  }
  return bytes;
}

bool SessionClient::HasRoom(const Amount& more) const {
  return unfinished_bytes() + more.charge <= options_.max_unfinished_bytes &&
         (session_ == nullptr || session_->HasRoom(more)) &&
         (suspended_ == nullptr || suspended_->HasRoom(more, backlog_.size()));
}

absl::Status SessionClient::CheckRoom(const Amount& more) const {
  if (more.charge > options_.max_unfinished_bytes) {
    return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_MESSAGE_TOO_LARGE,
                     absl::StrCat(more.batch ? "a batch" : "a request", " of ", more.request_bytes,
                                  " bytes; the client's bound is ", options_.max_unfinished_bytes,
                                  ": raise max_unfinished_bytes"),
                     {{"bound", "client"}, {"limit", absl::StrCat(options_.max_unfinished_bytes)}});
  }
  for (const auto* session : {&session_, &suspended_}) {
    if (*session == nullptr) continue;
    if (absl::Status fits = (*session)->CheckFits(more); !fits.ok()) return fits;
  }
  if (unfinished_bytes() + more.charge > options_.max_unfinished_bytes) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
        absl::StrCat("this client has ", unfinished_bytes(),
                     " bytes of requests unfinished, the bound is ", options_.max_unfinished_bytes,
                     ": await some, or raise max_unfinished_bytes"),
        {{"bound", "client"}, {"limit", absl::StrCat(options_.max_unfinished_bytes)}});
  }
  if (suspended_ != nullptr) return suspended_->CheckRoom(more, backlog_.size());
  return session_ != nullptr ? session_->CheckRoom(more) : absl::OkStatus();
}

SessionClient::Outgoing SessionClient::NextOutgoing() {
  if (session_ == nullptr || stream_ended_ || !session_->HasOutgoing()) return {};
  // What is not sent has certainly not run, which its caller is told once the stream has ended.
  if (stream_->PeerHasGone()) return {};
  while (std::optional<OpenSession::Outgoing> what = session_->NextOutgoing()) {
    if (what->half_close) return {.stream = stream_, .message = {}, .half_close = true};
    if (!stream_->has_ring()) {
      Outgoing outgoing{.stream = stream_, .message = what->message->Share()};
      session_->Sent(false);
      return outgoing;
    }
    const bool written = stream_->WriteToRing(*what->message);
    session_->Sent(true);
    if (!written) break;
    session_->Written();
  }
  return {};
}

void SessionClient::Outgoing::Send() {
  if (stream == nullptr) return;
  if (half_close) {
    stream->HalfClose();
  } else {
    stream->Write(message);
  }
}

void SessionClient::Cancel(RemoteInvocation& invocation) { CancelOrGiveUp(invocation, false); }

bool SessionClient::GiveUp(RemoteInvocation& invocation) {
  return CancelOrGiveUp(invocation, true);
}

void SessionClient::Stop(RemoteInvocation& invocation) { CancelOrGiveUp(invocation, true, true); }

bool SessionClient::CancelOrGiveUp(RemoteInvocation& invocation, bool give_up, bool stop) {
  Outgoing outgoing;
  std::vector<std::shared_ptr<RemoteInvocation>> unsent;
  bool in_time;
  {
    MutexLock lock(&mutex_);
    if (session_ != nullptr) {
      in_time = session_->AddCancel(invocation, give_up);
      if (in_time && stop) invocation.stopped = invocation.given_up;
      outgoing = NextOutgoing();
    } else {
      unsent = backlog_.Take(invocation.id);
      in_time =
          !unsent.empty() || (suspended_ != nullptr && suspended_->AddCancel(invocation, give_up));
      if (unsent.empty() && in_time && stop) invocation.stopped = invocation.given_up;
    }
  }
  outgoing.Send();
  for (const auto& one : unsent) {
    one->Finish(one == unsent.front() ? Cancelled() : BatchStopped());
  }
  return in_time;
}

void SessionClient::AlsoWaits(RemoteInvocation& invocation, const Chain& chain) {
  Outgoing outgoing;
  {
    MutexLock lock(&mutex_);
    if (suspended_ != nullptr && suspended_->unfinished().Contains(invocation.id)) {
      suspended_->AddWaiting(invocation, chain);
      return;
    }
    if (session_ == nullptr) {
      // More of them add nothing: it is known to be waited for.
      if (invocation.extra == nullptr) {
        invocation.extra = std::make_unique<RemoteInvocation::Extra>();
      }
      std::vector<Chain>& waiting = invocation.extra->waiting;
      if (waiting.size() < kMaxWaiting) waiting.push_back(chain);
      return;
    }
    session_->AddWaiting(invocation, chain);
    outgoing = NextOutgoing();
  }
  outgoing.Send();
}

absl::StatusOr<std::shared_ptr<SubscriptionState>> SessionClient::Subscribe(
    SubscriptionState::Call call) {
  std::shared_ptr<RemoteSubscription> subscription =
      RemoteSubscription::New(std::move(call), weak_from_this());
  Outgoing outgoing;
  {
    MutexLock lock(&mutex_);
    if (stopped_) return NotConnected("the session was closed");
    if (absl::Status status = subscriptions_.Add(subscription, session_.get()); !status.ok()) {
      return status;
    }
    outgoing = NextOutgoing();
  }
  outgoing.Send();
  return subscription;
}

void SessionClient::Unsubscribe(const std::shared_ptr<RemoteSubscription>& subscription) {
  Outgoing outgoing;
  {
    MutexLock lock(&mutex_);
    subscriptions_.Remove(subscription, session_.get());
    outgoing = NextOutgoing();
  }
  outgoing.Send();
}

}  // namespace runloop::internal

#include "runloop/daemon/session_protocol.h"

#include <algorithm>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "runloop/daemon/durations.h"
#include "runloop/daemon/limits.h"
#include "runloop/daemon/operation_service.h"
#include "runloop/daemon/request_charge.h"
#include "runloop/ipc/chain_codec.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/planted_bugs.h"

namespace runloop::daemon {
namespace {

// Room for the fields around a reply.
constexpr int64_t kEnvelopeBytes = 64;
// What is kept of what a large response needed.
constexpr size_t kKeptBytes = size_t{64} << 10;

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;

// Every field number in use here is below 16, so a tag is one byte.
constexpr size_t kTagSize = 1;

// Each writes at `to` and returns where it ends.
uint8_t* WriteVarint(int field, uint64_t value, uint8_t* to) {
  *to = static_cast<uint8_t>(WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_VARINT));
  return CodedOutputStream::WriteVarint64ToArray(value, to + kTagSize);
}
// The tag and length; the bytes follow.
uint8_t* WriteBytesHeader(int field, size_t size, uint8_t* to) {
  *to = static_cast<uint8_t>(
      WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED));
  return CodedOutputStream::WriteVarint64ToArray(size, to + kTagSize);
}

size_t HeaderSize(uint64_t value) { return kTagSize + CodedOutputStream::VarintSize64(value); }

// A v1.Outcome whose result is the message in `field`, which has just said that it has `size`
// bytes.
void AppendOutcome(uint64_t id, int field, const google::protobuf::MessageLite& result, size_t size,
                   std::string& to) {
  const size_t body = HeaderSize(id) + HeaderSize(size) + size;
  const size_t before = to.size();
  to.resize(before + HeaderSize(body) + body);
  auto* at = reinterpret_cast<uint8_t*>(to.data() + before);
  at = WriteBytesHeader(v1::SessionResponse::kOutcomesFieldNumber, body, at);
  at = WriteVarint(v1::Outcome::kInvocationIdFieldNumber, id, at);
  at = WriteBytesHeader(field, size, at);
  result.SerializeWithCachedSizesToArray(at);
}

}  // namespace

void SessionTools::Trim() {
  reader.Trim();
  finished = {};
  spare_requests.Clear();
  response = {};
}

void SessionTools::TrimTo(size_t count) {
  if (finished.capacity() > count) finished = {};
  spare_requests.TrimTo(count);
}

SessionProtocol::SessionProtocol(const SessionTerms& terms, std::shared_ptr<Session> session,
                                 bool resumable)
    : terms_(terms),
      session_(std::move(session)),
      outbox_(std::make_shared<SessionOutbox>()),
      notifications_(*terms.core, session_, terms.max_message_bytes,
                     [weak = std::weak_ptr<SessionOutbox>(outbox_)] {
                       if (const auto writer = weak.lock()) writer->WakeWriter();
                     }),
      resumable_(resumable) {}

SessionProtocol::~SessionProtocol() {
  session_->HoldOutcomes(-static_cast<int64_t>(counted_bytes_));
}

void SessionProtocol::CountHeld() {
  const size_t held = held_bytes();
  const size_t changed = std::max(held, counted_bytes_) - std::min(held, counted_bytes_);
  // Mostly nothing: what sessions count together is written to now and then only.
  if (changed == 0 || (changed < kUncounted && held != 0)) return;
  session_->HoldOutcomes(static_cast<int64_t>(held) - static_cast<int64_t>(counted_bytes_));
  counted_bytes_ = held;
}

void SessionProtocol::BeginDrain(absl::Duration left) { drain_left_ = left; }

void SessionProtocol::End() {
  session_->End();
  outbox_->Close();
  // Gives the memory of its tasks back before anybody looks what there is to give back.
  window_ = InvocationWindow();
  unsent_.clear();
  kept_.clear();
  given_up_.clear();
  unsent_bytes_ = kept_bytes_ = resent_ = resent_bytes_ = 0;
}

bool SessionProtocol::CanResume(uint64_t outcomes_received) const {
  return resumable_ && outcomes_received <= outcomes_told_ &&
         outcomes_received + kept_.size() >= outcomes_told_;
}

void SessionProtocol::Resume(uint64_t outcomes_received) {
  (void)Forget(outcomes_received);
  resent_ = kept_.size();
  resent_bytes_ = kept_bytes_;
  window_.DescribeAnew();
  notifications_.Restart();
  acknowledges_ = true;
  sent_again_ = window_.last_id();
}

void SessionProtocol::Keep(uint64_t id, Untold told) {
  ++outcomes_told_;
  if (!resumable_) return;
  kept_bytes_ += told.bytes;
  kept_.push_back({.id = id, .outcome = std::move(told.outcome), .bytes = told.bytes});
  if (kept_bytes_ < kUncounted) return;
  if (kept_bytes_ <= kMaxKeptBytes &&
      session_->MayHoldOutcomes(kept_bytes_, terms_.max_user_outcome_bytes)) {
    return;
  }
  kept_.clear();
  kept_bytes_ = 0;
}

absl::Status SessionProtocol::Forget(uint64_t outcomes_received) {
  if (outcomes_received > outcomes_told_ - resent_) {
    return Violation(absl::StrCat("it has received ", outcomes_received, " outcomes, and was told ",
                                  outcomes_told_ - resent_));
  }
  while (!kept_.empty() && outcomes_told_ - kept_.size() < outcomes_received) {
    kept_bytes_ -= kept_.front().bytes;
    kept_.pop_front();
  }
  return absl::OkStatus();
}

void SessionProtocol::FillResent(std::string& response, size_t most_bytes) {
  const size_t bound = std::min<size_t>(most_bytes, terms_.max_message_bytes / 2);
  size_t bytes = 0;
  while (resent_ > 0) {
    Kept& kept = kept_[kept_.size() - resent_];
    if (bytes > 0 && bytes + kept.bytes > bound) break;
    AddOutcome(kept.id, kept.outcome, response);
    bytes += kept.bytes;
    resent_bytes_ -= kept.bytes;
    --resent_;
  }
  last_response_bytes_ = bytes;
}

bool SessionProtocol::FillResponse(SessionTools& tools, std::string& response, size_t most_bytes) {
  TakeFinished(tools);

  response.clear();
  // Alone: the ranges pass over all of them, which were settled long ago.
  if (resent_ > 0) {
    FillResent(response, most_bytes);
    return true;
  }
  const size_t bound = std::min<size_t>(most_bytes, terms_.max_message_bytes / 2);
  const bool acknowledged = std::exchange(acknowledges_, false);
  absl::InlinedVector<uint64_t, 16> told;  // with an outcome of their own
  size_t bytes = 0;
  while (!unsent_.empty() && (bytes == 0 || bytes + unsent_.front().bytes <= bound)) {
    Untold& untold = unsent_.front();
    unsent_bytes_ -= untold.bytes;
    bytes += untold.bytes;
    const uint64_t id = window_.IdOf(untold.number);
    AddOutcome(id, untold.outcome, response);
    told.push_back(untold.number);
    Keep(id, std::move(untold));
    unsent_.pop_front();
  }
  // The ranges pass over invocations with an outcome of their own only once that was sent in an
  // earlier message, so a worker may take the two fields in either order.
  v1::SessionResponse& rest = tools.response;
  if (acknowledged) window_.Describe(*rest.mutable_succeeded());
  for (const uint64_t number : told) window_.Settle(number);

  last_response_bytes_ = bytes;

  const std::optional<absl::Duration> drain = std::exchange(drain_left_, std::nullopt);
  if (drain.has_value()) *rest.mutable_draining()->mutable_deadline() = ToProto(*drain);
  // A reply that is larger than others leaves no room.
  const bool notified = bytes <= bound && notifications_.Fill(rest);
  if (acknowledged || drain.has_value() || notified) {
    const size_t before = response.size();
    rest.AppendToString(&response);
    if (response.size() - before > kKeptBytes) {
      rest = v1::SessionResponse();
    } else {
      rest.Clear();
    }
  }
  CountHeld();
  return !response.empty();
}

void SessionProtocol::TakeFinished(SessionTools& tools) {
  // The ends of what was given up are no reason to write.
  SessionOutbox::Tasks& taken = tools.finished;
  do {
    taken.clear();
    outbox_->Take(taken);
    for (const std::shared_ptr<internal::OperationTask>& task : taken) {
      tools.spare_requests.Put(*task->operation, task->TakeRequest());
      if (!given_up_.empty()) given_up_.erase(task->number());
      const uint64_t number = task->ticket();
      Outcome outcome = task->TakeOutcome();
      if (outcome.ok() && *outcome == nullptr) {
        acknowledges_ |= window_.SettleIfExpected(number);
      } else if (window_.Expects(number)) {
        if (outcome.ok()) outcome = WithinBound(*std::move(outcome), *task->operation);
        Tell(number, std::move(outcome), task->outcome_bytes);
      }
    }
  } while (!taken.empty() && unsent_.empty() && !acknowledges_);
  taken.clear();
}

void SessionProtocol::AddOutcome(uint64_t id, const Outcome& outcome, std::string& response) {
  if (outcome.ok()) {
    const google::protobuf::Message& reply = **outcome;
    AppendOutcome(id, v1::Outcome::kReplyFieldNumber, reply, reply.ByteSizeLong(), response);
    return;
  }
  const auto status = runloop::ToProto(outcome.status());
  AppendOutcome(id, v1::Outcome::kStatusFieldNumber, status, status.ByteSizeLong(), response);
}

Outcome SessionProtocol::WithinBound(std::unique_ptr<google::protobuf::Message> reply,
                                     const Operation& operation) const {
  const int64_t limit = terms_.max_message_bytes - kEnvelopeBytes;
  const size_t size = reply->ByteSizeLong();
  if (size <= static_cast<size_t>(std::max<int64_t>(limit, 0))) return reply;
  return ReplyTooLarge(operation.name(), size, limit);
}

absl::Status SessionProtocol::Handle(SessionTools& tools, internal::RuntimeCore::Group& group) {
  const SessionRequestReader& request = tools.reader;
  const v1::SessionRequest& rest = request.rest();
  if (rest.has_hello()) return Violation("a second hello");
  if (rest.outcomes_received() > 0) {
    if (absl::Status received = Forget(rest.outcomes_received()); !received.ok()) return received;
  }
  for (const v1::CallSite& told : rest.call_sites()) KeepCallSite(told);
  // First, so that they hear of what the dispatches bring about.
  if (absl::Status status = notifications_.Handle(rest); !status.ok()) return status;
  const absl::Span<const DispatchView> dispatches = request.dispatches();
  for (size_t at = 0, count; at < dispatches.size(); at += count) {
    count = std::max<size_t>(dispatches[at].batch_size, 1);
    const size_t most = MaxBatchOf(session_->info().peer);
    if (count > dispatches.size() - at || count > most) {
      return Violation(absl::StrCat("a batch of ", count, " invocations, with ",
                                    dispatches.size() - at, " left in the message, and ", most,
                                    " in a batch at most"));
    }
    const auto together = dispatches.subspan(at, count);
    if (absl::Status taken = TakeIn(together, tools.spare_requests, group); !taken.ok()) {
      return taken;
    }
  }
  if (rest.cancels_size() > 0 || rest.waiting_size() > 0) group.Flush();
  for (const v1::Cancel& cancel : rest.cancels()) Cancel(cancel);
  CountHeld();
  for (const v1::Waiting& waiting : rest.waiting()) {
    const auto invocation = window_.Find(waiting.invocation_id());
    absl::StatusOr<internal::Chain> chain = ReadChain(waiting.chain());
    if (!chain.ok()) return Violation(chain.status().message());
    if (invocation.has_value() && invocation->task != nullptr) {
      terms_.core->AlsoWaits(*invocation->task, *std::move(chain));
    }
  }
  return absl::OkStatus();
}

absl::Status SessionProtocol::TakeIn(absl::Span<const DispatchView> dispatches,
                                     SpareRequests& spares, internal::RuntimeCore::Group& group) {
  const uint64_t first = dispatches.front().invocation_id;
  for (size_t i = 1; i < dispatches.size(); ++i) {
    if (dispatches[i].batch_size != 0) return Violation("a batch within a batch");
    if (dispatches[i].invocation_id <= dispatches[i - 1].invocation_id) {
      return Violation("the ids of a batch rise");
    }
  }
  if (first != 0 && first <= sent_again_) {
    if (dispatches.back().invocation_id > sent_again_) {
      return Violation("a part of a batch had come before");
    }
    if (internal::Planted(internal::PlantedBug::kResumedDuplicate)) {
      (void)Dispatch(window_.Add(window_.last_id() + 1), dispatches.front(), spares, group);
    }
    return absl::OkStatus();
  }
  sent_again_ = 0;
  if (first <= window_.last_id()) {
    return Violation(absl::StrCat("invocation id ", first, " came after ", window_.last_id(),
                                  "; ids start at 1 and rise"));
  }
  if (dispatches.front().batch_size == 0) {
    const uint64_t number = window_.Add(first);
    if (absl::Status refused = Dispatch(number, dispatches.front(), spares, group); !refused.ok()) {
      Tell(number, BoundedStatus(std::move(refused)));
    }
    return absl::OkStatus();
  }
  group.Flush();
  std::vector<uint64_t> numbers;
  for (const DispatchView& dispatch : dispatches) {
    numbers.push_back(window_.Add(dispatch.invocation_id));
  }
  const absl::Status refused = DispatchBatch(numbers, dispatches, spares, group.now());
  for (const uint64_t number : numbers) {
    if (!refused.ok()) Tell(number, BoundedStatus(refused));
  }
  return absl::OkStatus();
}

void SessionProtocol::Tell(uint64_t number, absl::Status outcome) {
  Outcome told = std::move(outcome);
  const size_t bytes = OutcomeBytes(told);
  Tell(number, std::move(told), bytes);
}

void SessionProtocol::Tell(uint64_t number, Outcome outcome, size_t bytes) {
  unsent_.push_back({.number = number, .outcome = std::move(outcome), .bytes = bytes});
  unsent_bytes_ += bytes;
  window_.BeginTelling(number);
}

void SessionProtocol::Cancel(const v1::Cancel& cancel) {
  const uint64_t id = cancel.invocation_id();
  if (const auto running = given_up_.find(id);
      running != given_up_.end() && running->second->state() != internal::Task::State::kEnded) {
    return;
  }
  const auto invocation = window_.Find(id);
  if (invocation.has_value() && invocation->given_up) return;  // once is enough
  const bool open = invocation.has_value() && invocation->task != nullptr;
  if (!cancel.give_up()) {
    if (open) terms_.core->Cancel(*invocation->task);
    return;
  }
  const auto given_up = open ? terms_.core->GiveUp(*invocation->task, OutcomeKind::kCancelled)
                             : internal::RuntimeCore::GivenUp::kEnded;
  switch (given_up) {
    case internal::RuntimeCore::GivenUp::kNeverRan:
      break;  // the outcome says so
    case internal::RuntimeCore::GivenUp::kStillRunning:
      Tell(invocation->number,
           MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                     absl::StrCat(invocation->task->operation->name(),
                                  " had started when it was given up; it runs on"),
                     {{"operation", invocation->task->operation->name()}}));
      given_up_[id] = invocation->task;
      window_.GiveUp(invocation->number);
      break;
    case internal::RuntimeCore::GivenUp::kEnded:
      terms_.core->GiveUpEnded(*session_, id);
      break;
  }
}

absl::StatusOr<const Operation*> SessionProtocol::FindOperation(
    const DispatchView& dispatch) const {
  const std::vector<const Operation*>& operations = terms_.operations;
  const uint32_t id = dispatch.operation_id;
  if (id >= 1 && id <= operations.size()) return operations[id - 1];
  if (id == 0 && dispatch.message->operation_case() == v1::Dispatch::kOperationName) {
    return terms_.core->FindOperation(dispatch.message->operation_name());
  }
  if (id == 0 && dispatch.message->operation_case() == v1::Dispatch::OPERATION_NOT_SET) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                     "the dispatch names no operation");
  }
  return MakeError(
      absl::StatusCode::kUnimplemented, v1::ERROR_REASON_UNKNOWN_OPERATION,
      absl::StrCat("no operation has the id ", id, "; welcome.operations lists those there are"));
}

void SessionProtocol::KeepCallSite(const v1::CallSite& told) {
  const uint32_t id = told.id();
  if (id == 0 || id > internal::CallSiteTable::kMost || FindCallSite(id).known()) return;
  if (call_sites_.size() < id) call_sites_.resize(id);
  call_sites_[id - 1] =
      CallSite(session_->call_sites().Keep(told.file(), told.line(), told.function()));
}

CallSite SessionProtocol::FindCallSite(uint32_t id) const {
  return id >= 1 && id <= call_sites_.size() ? call_sites_[id - 1] : CallSite();
}

absl::Status SessionProtocol::CheckUnfinished(size_t added) const {
  const int64_t max_unfinished = terms_.max_unfinished;
  if (window_.unsettled() <= static_cast<size_t>(max_unfinished)) return absl::OkStatus();
  const bool fits = added <= static_cast<size_t>(max_unfinished);
  return MakeError(
      absl::StatusCode::kResourceExhausted,
      fits ? v1::ERROR_REASON_QUEUE_FULL : v1::ERROR_REASON_MESSAGE_TOO_LARGE,
      fits ? absl::StrCat("the session has ", max_unfinished,
                          " unfinished invocations, as many as it may; wait for some to finish")
           : absl::StrCat("a batch of ", added, " invocations; the session may have ",
                          max_unfinished, " unfinished"),
      {{"bound", "session"},
       {"limit", absl::StrCat(max_unfinished)},
       {"session", session_->info().id}});
}

absl::StatusOr<internal::RuntimeCore::Call> SessionProtocol::CallOf(uint64_t number,
                                                                    const DispatchView& dispatch,
                                                                    absl::Time now) const {
  const absl::StatusOr<const Operation*> operation = FindOperation(dispatch);
  if (!operation.ok()) return operation.status();
  internal::RuntimeCore::Call call{.operation = *operation,
                                   .call_site = FindCallSite(dispatch.call_site_id),
                                   .number = dispatch.invocation_id,
                                   .reply_wanted = dispatch.reply_wanted,
                                   .sink = outbox_,
                                   .ticket = number};
  if (dispatch.has_timeout) {
    const absl::StatusOr<absl::Duration> timeout =
        ReadDuration(dispatch.timeout_seconds, dispatch.timeout_nanos, "timeout");
    if (!timeout.ok()) return timeout.status();
    if (*timeout > absl::ZeroDuration()) call.deadline = now + *timeout;
  }
  const absl::StatusOr<size_t> charge =
      ChargeOf(dispatch.request, *(*operation)->method().input_type(), terms_.core->bounds());
  if (!charge.ok()) return charge.status();
  call.request_bytes = *charge;
  if (dispatch.message != nullptr) {
    absl::StatusOr<internal::Chain> chain = ReadChain(dispatch.message->chain());
    if (!chain.ok()) return chain.status();
    call.chain = *std::move(chain);
    call.coalesce_key = dispatch.message->coalesce_key();
    if (absl::Status key = internal::CheckCoalesceKey(call.coalesce_key); !key.ok()) return key;
    const absl::StatusOr<absl::Duration> delay = FromProto(dispatch.message->delay(), "delay");
    if (!delay.ok()) return delay.status();
    call.delay = *delay;
    const std::string& trace_parent = dispatch.message->trace_parent();
    if (absl::Status trace = internal::CheckTraceParent(trace_parent); !trace.ok()) return trace;
    call.trace_parent = internal::KeepTraceParent(trace_parent);
  }
  return call;
}

absl::Status SessionProtocol::Parse(const DispatchView& dispatch, SpareRequests& spares,
                                    internal::RuntimeCore::Call& call) {
  call.request = spares.Get(*call.operation);
  return call.operation->ParseRequest(dispatch.request, *call.request);
}

absl::Status SessionProtocol::Dispatch(uint64_t number, const DispatchView& dispatch,
                                       SpareRequests& spares, internal::RuntimeCore::Group& group) {
  if (absl::Status room = CheckUnfinished(1); !room.ok()) return room;
  absl::StatusOr<internal::RuntimeCore::Call> call = CallOf(number, dispatch, group.now());
  if (!call.ok()) return call.status();
  if (absl::Status parsed = Parse(dispatch, spares, *call); !parsed.ok()) return parsed;
  absl::StatusOr<std::shared_ptr<internal::OperationTask>> task;
  if (call->chain.empty() && call->coalesce_key.empty() && call->delay <= absl::ZeroDuration()) {
    task = group.Dispatch(*std::move(call));
  } else {
    group.Flush();
    call->session = session_;
    task = terms_.core->Dispatch(*std::move(call));
  }
  if (!task.ok()) return task.status();
  window_.SetTask(number, *std::move(task));
  return absl::OkStatus();
}

absl::Status SessionProtocol::DispatchBatch(absl::Span<const uint64_t> numbers,
                                            absl::Span<const DispatchView> dispatches,
                                            SpareRequests& spares, absl::Time now) {
  if (absl::Status room = CheckUnfinished(numbers.size()); !room.ok()) return room;
  std::vector<internal::RuntimeCore::Call> calls;
  for (size_t i = 0; i < numbers.size(); ++i) {
    absl::StatusOr<internal::RuntimeCore::Call> call = CallOf(numbers[i], dispatches[i], now);
    if (!call.ok()) return call.status();
    call->session = session_;
    calls.push_back(*std::move(call));
  }
  // All of it is held against the bounds before any of it is parsed.
  if (absl::Status checked = terms_.core->CheckBatch(calls); !checked.ok()) return checked;
  for (size_t i = 0; i < calls.size(); ++i) {
    if (absl::Status parsed = Parse(dispatches[i], spares, calls[i]); !parsed.ok()) return parsed;
  }
  absl::StatusOr<std::vector<std::shared_ptr<internal::OperationTask>>> tasks =
      terms_.core->DispatchBatch(std::move(calls), dispatches.front().stop_at_failure);
  if (!tasks.ok()) return tasks.status();
  for (size_t i = 0; i < numbers.size(); ++i) window_.SetTask(numbers[i], std::move((*tasks)[i]));
  return absl::OkStatus();
}

}  // namespace runloop::daemon

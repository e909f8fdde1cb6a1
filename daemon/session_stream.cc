#include "runloop/daemon/session_stream.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/byte_buffer.h"
#include "runloop/daemon/durations.h"
#include "runloop/daemon/limits.h"
#include "runloop/daemon/operation_service.h"
#include "runloop/daemon/request_charge.h"
#include "runloop/ipc/chain_codec.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

constexpr uint32_t kVersion = 1;  // the only one spoken
constexpr size_t kMaxClientName = 128;
// One response holds about so much, so that a client with gRPC's default limit of 4 MiB can read
// it.
constexpr size_t kResponseBytes = size_t{1} << 20;
// Room for the fields around a reply.
constexpr int64_t kEnvelopeBytes = 64;
absl::Status Draining() {
  return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING,
                   "the daemon is draining; connect again when its socket is back");
}

// 128 random bits: what is not known cannot be joined.
std::string NewSessionId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) {
    absl::StrAppend(&id, absl::Hex(static_cast<uint32_t>(random()), absl::kZeroPad8));
  }
  return id;
}

// The characters from U+0080 to U+009F are C2 80 to C2 9F in UTF-8.
bool IsC1(absl::string_view text) {
  return text.size() >= 2 && text[0] == '\xC2' && static_cast<unsigned char>(text[1]) < 0xA0;
}

// A name for people, cut between characters of UTF-8 (which the parser has checked), with nothing
// in it that a terminal would obey.
std::string CleanName(std::string name) {
  if (name.size() > kMaxClientName) {
    size_t end = kMaxClientName;
    while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xC0) == 0x80) --end;
    name.resize(end);
  }
  std::string clean;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool c1 = IsC1(absl::string_view(name).substr(i));
    const bool control = c1 || static_cast<unsigned char>(name[i]) < 0x20 || name[i] == 0x7F;
    clean.push_back(control ? '?' : name[i]);
    if (c1) ++i;
  }
  return clean;
}

}  // namespace

SessionStream::SessionStream(SessionServer& server, Call& call) : server_(server), call_(call) {
  server_.Add(this);
}

SessionStream::~SessionStream() {
  server_.Remove(this);
  EndSession();
}

void SessionStream::Start() {
  if (server_.drain_left()) BeginDrain();
  Advance();
}

void SessionStream::OnGone() {
  broken_ = true;
  EndSession();
}

void SessionStream::OnRead(grpc::ByteBuffer* bytes) {
  reading_ = false;
  SessionRequestReader& request = server_.reader();
  if (bytes == nullptr) {
    // Either the worker has half-closed or it has gone; OnGone comes too if it has.
    half_closed_ = true;
    if (stage_ == Stage::kHello) End(Violation("it ended without a hello"));
  } else if (ending_) {
    // Too late: what it brings was never admitted.
  } else if (absl::Status status = request.Read(*bytes); stage_ == Stage::kHello) {
    status.ok() ? HandleHello(request) : End(std::move(status));
  } else if (status = status.ok() ? HandleRequest(request) : status; !status.ok()) {
    server_.log().Warn(absl::StrCat("ended session ", session_->info().id, " of process ",
                                    session_->info().peer.pid, ": ", status.message()));
    End(std::move(status));
  }
  if (bytes != nullptr) bytes->Clear();
  request.Clear();
  Advance();
}

void SessionStream::OnWritten(bool ok) {
  writing_ = false;
  written_bytes_ = 0;
  if (!ok) broken_ = true;  // OnGone follows
  Advance();
}

void SessionStream::BeginDrain() {
  draining_ = true;
  if (stage_ == Stage::kHello) End(Draining());
  Advance();
}

void SessionStream::Advance() {
  if (broken_ || finishing_) return;
  if (!writing_ && !ending_ && FillResponse()) {
    writing_ = true;
    call_.Write(SerializeToBytes(response_));
  }
  if (!writing_) {
    if (!ending_ && stage_ == Stage::kOpen && window_.unsettled() == 0) {
      if (half_closed_) End(absl::OkStatus());
      if (!ending_ && draining_) End(Draining());
    }
    if (ending_) {
      finishing_ = true;
      call_.Finish(*ending_);
      return;
    }
  }
  if (reading_ || half_closed_ || ending_) return;
  if (outbox_ != nullptr && outbox_->bytes() + unsent_bytes_ + written_bytes_ >= kMaxUnsentBytes) {
    return;
  }
  reading_ = true;
  call_.Read();
}

bool SessionStream::FillResponse() {
  if (stage_ != Stage::kOpen) return false;
  if (!welcomed_) {
    welcomed_ = true;  // Welcome has filled it
    return true;
  }
  TakeFinished();

  response_.Clear();
  const size_t bound = std::min<size_t>(kResponseBytes, server_.options().max_message_bytes / 2);
  const bool acknowledged = std::exchange(acknowledges_, false);
  std::vector<uint64_t> told;  // with an outcome of their own
  size_t bytes = 0;
  while (!unsent_.empty() && (bytes == 0 || bytes + unsent_.front().bytes <= bound)) {
    Untold& untold = unsent_.front();
    unsent_bytes_ -= untold.bytes;
    written_bytes_ += untold.bytes;
    bytes += untold.bytes;
    FillOutcome(untold, *response_.add_outcomes());
    told.push_back(untold.number);
    unsent_.pop_front();
  }
  // The ranges pass over invocations with an outcome of their own only once that was sent in an
  // earlier message, so a worker may take the two fields in either order.
  if (acknowledged) window_.Describe(*response_.mutable_succeeded());
  for (const uint64_t number : told) window_.Settle(number);

  const bool tell_drain = draining_ && !drain_told_;
  if (tell_drain) {
    drain_told_ = true;
    *response_.mutable_draining()->mutable_deadline() =
        ToProto(server_.drain_left().value_or(absl::ZeroDuration()));
  }
  return acknowledged || !told.empty() || tell_drain;
}

void SessionStream::TakeFinished() {
  // The outbox wakes this stream again only once it was found empty, or there is a write, after
  // which this looks again. The ends of what was given up are no reason to write.
  SessionOutbox::Tasks& taken = server_.finished();
  do {
    taken.clear();
    outbox_->Take(taken);
    for (const std::shared_ptr<internal::OperationTask>& task : taken) {
      server_.spare_requests().Put(*task->operation, task->TakeRequest());
      const uint64_t number = task->ticket();
      Outcome outcome = task->TakeOutcome();
      if (outcome.ok() && *outcome == nullptr) {
        acknowledges_ |= window_.SettleIfExpected(number);
      } else if (window_.Expects(number)) {
        Tell(number, std::move(outcome));
      }
    }
  } while (!taken.empty() && unsent_.empty() && !acknowledges_);
  taken.clear();
}

void SessionStream::FillOutcome(Untold& untold, v1::Outcome& outcome) {
  outcome.set_invocation_id(window_.IdOf(untold.number));
  if (untold.outcome.ok()) {
    const google::protobuf::Message& reply = **untold.outcome;
    const int64_t limit = server_.options().max_message_bytes - kEnvelopeBytes;
    const size_t size = reply.ByteSizeLong();
    if (size <= static_cast<size_t>(std::max<int64_t>(limit, 0))) {
      reply.SerializeToString(outcome.mutable_reply());
      return;
    }
    untold.outcome = ReplyTooLarge(reply.GetTypeName(), size, limit);
  }
  *outcome.mutable_status() = runloop::ToProto(untold.outcome.status());
}

void SessionStream::HandleHello(const SessionRequestReader& request) {
  const v1::SessionRequest& rest = request.rest();
  if (!rest.has_hello() || !request.dispatches().empty() || rest.cancels_size() > 0 ||
      rest.waiting_size() > 0 || rest.has_received()) {
    End(Violation("the first message holds hello and nothing else"));
    return;
  }
  if (absl::Status welcomed = Welcome(rest.hello()); !welcomed.ok()) End(std::move(welcomed));
}

absl::Status SessionStream::Welcome(const v1::Hello& hello) {
  const v1::VersionRange& versions = hello.versions();
  if (versions.min() == 0 || versions.max() < versions.min()) {
    return Violation("hello.versions is no range of versions from 1 on");
  }
  if (versions.min() > kVersion) {
    return MakeError(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_VERSION_MISMATCH,
                     absl::StrCat("the daemon speaks version ", kVersion, " to ", kVersion,
                                  " of the session protocol, the client ", versions.min(), " to ",
                                  versions.max(), ": update the daemon"),
                     {{"daemon", absl::StrCat(kVersion, "-", kVersion)},
                      {"client", absl::StrCat(versions.min(), "-", versions.max())}});
  }
  absl::StatusOr<std::shared_ptr<Connection>> connection =
      server_.options().callers->ConnectionOf(call_.context());
  if (!connection.ok()) return connection.status();

  absl::StatusOr<std::shared_ptr<Session>> session =
      server_.core().OpenPeerSession({.id = NewSessionId(),
                                      .client_name = CleanName(hello.client_name()),
                                      .peer = (*connection)->peer(),
                                      .transport = "stream"});
  if (!session.ok()) return session.status();
  session_ = *std::move(session);
  response_.mutable_welcome()->set_side_channel_token(
      server_.options().callers->AddSession(session_));
  outbox_ = std::make_shared<SessionOutbox>(server_.options().completion, this);
  stage_ = Stage::kOpen;
  server_.SessionOpened();

  v1::Welcome& welcome = *response_.mutable_welcome();
  welcome.set_version(kVersion);
  welcome.set_session_id(session_->info().id);
  welcome.set_transport(v1::TRANSPORT_STREAM);
  welcome.set_runtime_id(server_.core().id());
  *welcome.mutable_limits() = LimitsOf(server_.core(), server_.options().max_message_bytes,
                                       server_.options().max_unfinished);
  uint32_t id = 0;
  for (const Operation* operation : server_.operations()) {
    v1::OperationId& named = *welcome.add_operations();
    named.set_id(++id);
    named.set_name(operation->name());
    named.set_request_type(operation->method().input_type()->full_name());
    named.set_reply_type(operation->method().output_type()->full_name());
  }
  return absl::OkStatus();
}

absl::Status SessionStream::HandleRequest(const SessionRequestReader& request) {
  const v1::SessionRequest& rest = request.rest();
  if (rest.has_hello()) return Violation("a second hello");
  internal::RuntimeCore::Group group(server_.core(), session_);
  for (const DispatchView& dispatch : request.dispatches()) {
    if (dispatch.invocation_id <= window_.last_id()) {
      return Violation(absl::StrCat("invocation id ", dispatch.invocation_id, " came after ",
                                    window_.last_id(), "; ids start at 1 and rise"));
    }
    const uint64_t number = window_.Add(dispatch.invocation_id);
    if (absl::Status refused = Dispatch(number, dispatch, group); !refused.ok()) {
      Tell(number, BoundedStatus(std::move(refused)));
    }
  }
  group.Flush();
  if (!request.dispatches().empty()) call_.completion().ExpectPost();
  for (const v1::Cancel& cancel : rest.cancels()) Cancel(cancel);
  for (const v1::Waiting& waiting : rest.waiting()) {
    const auto invocation = window_.Find(waiting.invocation_id());
    absl::StatusOr<internal::Chain> chain = ReadChain(waiting.chain());
    if (!chain.ok()) return Violation(chain.status().message());
    if (invocation.has_value() && invocation->task != nullptr) {
      server_.core().AlsoWaits(*invocation->task, *std::move(chain));
    }
  }
  return absl::OkStatus();
}

void SessionStream::Tell(uint64_t number, Outcome outcome) {
  const size_t bytes = OutcomeBytes(outcome);
  unsent_.push_back({.number = number, .outcome = std::move(outcome), .bytes = bytes});
  unsent_bytes_ += bytes;
}

void SessionStream::Cancel(const v1::Cancel& cancel) {
  const uint64_t id = cancel.invocation_id();
  const auto invocation = window_.Find(id);
  if (invocation.has_value() && invocation->given_up) return;  // once is enough
  const bool open = invocation.has_value() && invocation->task != nullptr;
  if (!cancel.give_up()) {
    if (open) server_.core().Cancel(*invocation->task);
    return;
  }
  const auto given_up = open ? server_.core().GiveUp(*invocation->task, OutcomeKind::kCancelled)
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
      window_.GiveUp(invocation->number);
      break;
    case internal::RuntimeCore::GivenUp::kEnded:
      server_.core().GiveUpEnded(*session_, id);
      break;
  }
}

absl::StatusOr<const Operation*> SessionStream::FindOperation(const DispatchView& dispatch) const {
  const std::vector<const Operation*>& operations = server_.operations();
  const uint32_t id = dispatch.operation_id;
  if (id >= 1 && id <= operations.size()) return operations[id - 1];
  if (id == 0 && dispatch.message->operation_case() == v1::Dispatch::kOperationName) {
    return server_.core().FindOperation(dispatch.message->operation_name());
  }
  if (id == 0 && dispatch.message->operation_case() == v1::Dispatch::OPERATION_NOT_SET) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                     "the dispatch names no operation");
  }
  return MakeError(
      absl::StatusCode::kUnimplemented, v1::ERROR_REASON_UNKNOWN_OPERATION,
      absl::StrCat("no operation has the id ", id, "; welcome.operations lists those there are"));
}

absl::Status SessionStream::Dispatch(uint64_t number, const DispatchView& dispatch,
                                     internal::RuntimeCore::Group& group) {
  const int64_t max_unfinished = server_.options().max_unfinished;
  if (window_.unsettled() > static_cast<size_t>(max_unfinished)) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
        absl::StrCat("the session has ", max_unfinished,
                     " unfinished invocations, as many as it may; wait for some to finish"),
        {{"bound", "session"},
         {"limit", absl::StrCat(max_unfinished)},
         {"session", session_->info().id}});
  }
  const absl::StatusOr<const Operation*> operation = FindOperation(dispatch);
  if (!operation.ok()) return operation.status();
  internal::RuntimeCore::Call call{.operation = *operation,
                                   .number = dispatch.invocation_id,
                                   .reply_wanted = dispatch.reply_wanted,
                                   .sink = outbox_,
                                   .ticket = number};
  if (dispatch.has_timeout) {
    google::protobuf::Duration asked;
    asked.set_seconds(dispatch.timeout_seconds);
    asked.set_nanos(dispatch.timeout_nanos);
    const absl::StatusOr<absl::Duration> timeout = FromProto(asked);
    if (!timeout.ok()) return timeout.status();
    if (*timeout > absl::ZeroDuration()) call.deadline = server_.core().clock().Now() + *timeout;
  }
  const absl::StatusOr<size_t> charge =
      ChargeOf(dispatch.request, *(*operation)->method().input_type(), server_.core().bounds());
  if (!charge.ok()) return charge.status();
  call.request_bytes = *charge;
  call.request = server_.spare_requests().Get(**operation);
  if (absl::Status parsed = (*operation)->ParseRequest(dispatch.request, *call.request);
      !parsed.ok()) {
    return parsed;
  }
  if (dispatch.message != nullptr) {
    absl::StatusOr<internal::Chain> chain = ReadChain(dispatch.message->chain());
    if (!chain.ok()) return chain.status();
    call.chain = *std::move(chain);
    call.coalesce_key = dispatch.message->coalesce_key();
    if (absl::Status key = CheckCoalesceKey(call.coalesce_key); !key.ok()) return key;
  }
  absl::StatusOr<std::shared_ptr<internal::OperationTask>> task;
  if (call.chain.empty() && call.coalesce_key.empty()) {
    task = group.Dispatch(std::move(call));
  } else {
    group.Flush();
    call.session = session_;
    task = server_.core().Dispatch(std::move(call));
  }
  if (!task.ok()) return task.status();
  window_.SetTask(number, *std::move(task));
  return absl::OkStatus();
}

void SessionStream::End(absl::Status status) {
  if (!ending_) ending_ = std::move(status);
  EndSession();
}

void SessionStream::EndSession() {
  if (session_ == nullptr) return;
  session_->End();
  server_.options().callers->RemoveSession(*session_);
  outbox_->Close();
  // Gives the memory of its tasks back before the server looks what there is to give back.
  window_ = InvocationWindow();
  if (!std::exchange(session_ended_, true)) server_.SessionEnded();
}

}  // namespace runloop::daemon

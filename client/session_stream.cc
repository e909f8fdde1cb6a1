#include "runloop/client/session_stream.h"

#include <poll.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "grpc/support/time.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "runloop/client/daemon_channel.h"
#include "runloop/client/response_reader.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

// How long the stream may outlive its ring.
constexpr absl::Duration kOutlives = absl::Seconds(5);

constexpr char kMethod[] = "/runloop.v1.Dispatcher/Session";

gpr_timespec ToGpr(absl::Time deadline) {
  if (deadline == absl::InfiniteFuture()) return gpr_inf_future(GPR_CLOCK_MONOTONIC);
  const absl::Duration left = deadline - Clock::Monotonic()->Now();
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_nanos(absl::ToInt64Nanoseconds(left), GPR_TIMESPAN));
}

}  // namespace

absl::StatusOr<std::shared_ptr<SessionStream>> SessionStream::Start(const Address& address,
                                                                    v1::Hello hello) {
  absl::StatusOr<DaemonChannel> channel = OpenDaemonChannel(address);
  if (!channel.ok()) return channel.status();
  std::shared_ptr<SessionStream> stream(
      new SessionStream(address, std::move(hello), *std::move(channel)));
  stream->stream_->StartCall(ToTag(kStarted));
  return stream;
}

SessionStream::SessionStream(Address address, v1::Hello hello, DaemonChannel channel)
    : address_(std::move(address)), hello_(std::move(hello)), socket_(std::move(channel.socket)) {
  stream_ = grpc::GenericStub(std::move(channel.channel)).PrepareCall(&context_, kMethod, &queue_);
}

SessionStream::~SessionStream() {
  Cancel();
  while (!ended_) Next(absl::InfiniteFuture());
  queue_.Shutdown();
  void* tag;
  bool ok;
  while (queue_.Next(&tag, &ok)) {
  }
}

std::optional<absl::Status> SessionStream::Handshake(absl::Time deadline) {
  while (!hello_written_ || !welcomed_) {
    switch (Next(deadline)) {
      case Event::kWritten:
        hello_written_ = true;
        break;
      case Event::kWriteFailed:  // the end follows
      case Event::kRoom:
        break;
      case Event::kMessage:
        if (message_.has_draining() && !message_.has_welcome()) {
          return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_DRAINING,
                           absl::StrCat("the daemon at ", address_.ToString(),
                                        " is draining; try again once it is back"));
        }
        if (welcomed_ || !message_.has_welcome() || message_.welcome().version() != 1) {
          return MakeError(absl::StatusCode::kFailedPrecondition,
                           v1::ERROR_REASON_PROTOCOL_VIOLATION,
                           absl::StrCat("what listens at ", address_.ToString(),
                                        " does not open a session as a runloop daemon does"));
        }
        welcomed_ = true;
        welcome_ = std::move(*message_.mutable_welcome());
        break;
      case Event::kTimeout:
        return std::nullopt;
      case Event::kEnded:
        if (end_status_.ok() || (absl::IsUnavailable(end_status_) &&
                                 ReasonOf(end_status_) == v1::ERROR_REASON_UNSPECIFIED)) {
          return NotConnected(absl::StrCat(
              "the daemon at ", address_.ToString(),
              " closed the connection at once: it serves only processes of its own user"));
        }
        return end_status_;
    }
  }
  return absl::OkStatus();
}

absl::Status SessionStream::AttachRing(absl::Duration timeout, absl::Time until, Mutex& writes) {
  if (welcome_.transport() != v1::TRANSPORT_RING || welcome_.side_channel_token().empty()) {
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<SessionRing>> ring =
      SessionRing::Attach(address_, welcome_, timeout, until, writes);
  if (absl::IsAborted(ring.status())) return NotConnected(std::string(ring.status().message()));
  if (ring.ok()) {
    attached_ring_ = *std::move(ring);
    ring_.store(attached_ring_.get(), std::memory_order_release);
  }
  return absl::OkStatus();
}

SessionStream::Event SessionStream::Next(absl::Time deadline, bool hurried) {
  SessionRing* const attached = ring();
  if (attached == nullptr) return NextOfStream(deadline);
  if (ring_closed_ == absl::InfiniteFuture()) {
    if (const std::optional<Event> event = NextOfRing(deadline, hurried)) return *event;
    ring_closed_ = Clock::Monotonic()->Now();
    if (!attached->error().ok()) context_.TryCancel();
  }
  // Then comes the end.
  const absl::Time late = ring_closed_ + kOutlives;
  const Event event = NextOfStream(overdue_ ? deadline : std::min(deadline, late));
  if (event == Event::kTimeout && Clock::Monotonic()->Now() >= late && !overdue_) {
    overdue_ = true;
    context_.TryCancel();
  }
  if (event == Event::kEnded && !attached->error().ok()) end_status_ = attached->error();
  return event;
}

std::optional<SessionStream::Event> SessionStream::NextOfRing(absl::Time deadline, bool hurried) {
  std::string_view bytes;
  switch (ring()->Next(deadline, hurried, bytes)) {
    case SessionRing::Event::kMessage:
      if (ReadLoneReply(bytes, lone_reply_)) {
        received_ = &lone_reply_;
        return Event::kMessage;
      }
      received_ = &message_;
      if (message_.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
        return Event::kMessage;
      }
      Cancel();
      return std::nullopt;
    case SessionRing::Event::kRoom:
      return Event::kRoom;
    case SessionRing::Event::kTimeout:
      return Event::kTimeout;
    case SessionRing::Event::kClosed:
      return std::nullopt;
  }
  return std::nullopt;
}

SessionStream::Event SessionStream::NextOfStream(absl::Time deadline) {
  while (true) {
    void* tag;
    bool ok;
    switch (deadline == absl::InfiniteFuture()
                ? (queue_.Next(&tag, &ok) ? grpc::CompletionQueue::GOT_EVENT
                                          : grpc::CompletionQueue::SHUTDOWN)
                : queue_.AsyncNext(&tag, &ok, ToGpr(deadline))) {
      case grpc::CompletionQueue::SHUTDOWN:
      case grpc::CompletionQueue::TIMEOUT:
        return Event::kTimeout;
      case grpc::CompletionQueue::GOT_EVENT:
        break;
    }
    switch (static_cast<Tag>(reinterpret_cast<intptr_t>(tag))) {
      case kStarted: {
        if (!ok) {
          Finish();
          break;
        }
        stream_->Read(&incoming_, ToTag(kRead));
        v1::SessionRequest request;
        *request.mutable_hello() = hello_;
        const grpc::Slice bytes(request.SerializeAsString());
        Write(grpc::ByteBuffer(&bytes, 1));
        break;
      }
      case kRead: {
        if (!ok) {
          Finish();
          break;
        }
        grpc::ProtoBufferReader reader(&incoming_);
        if (!reader.status().ok() || !message_.ParseFromZeroCopyStream(&reader)) {
          Cancel();
          Finish();
          break;
        }
        stream_->Read(&incoming_, ToTag(kRead));
        received_ = &message_;
        return Event::kMessage;
      }
      case kWrite:
        return ok ? Event::kWritten : Event::kWriteFailed;
      case kFinished:
        ended_ = true;
        end_status_ = FromGrpcStatus(grpc_status_);
        return Event::kEnded;
    }
  }
}

void SessionStream::Write(const grpc::ByteBuffer& message) {
  stream_->Write(message, ToTag(kWrite));
}

bool SessionStream::Flush() { return !has_ring() || ring()->Flush(); }

bool SessionStream::PeerHasGone() const {
  if (has_ring()) return ring()->PeerHasGone();
  pollfd socket{.fd = socket_.get(), .events = POLLRDHUP, .revents = 0};
  return poll(&socket, 1, 0) > 0;
}

void SessionStream::HalfClose() { stream_->WritesDone(ToTag(kWrite)); }

void SessionStream::Cancel() {
  context_.TryCancel();
  if (has_ring()) ring()->Shutdown();
}

void SessionStream::Finish() {
  if (std::exchange(finishing_, true)) return;
  stream_->Finish(&grpc_status_, ToTag(kFinished));
}

}  // namespace runloop::internal

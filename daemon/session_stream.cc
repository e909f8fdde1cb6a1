#include "runloop/daemon/session_stream.h"

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/byte_buffer.h"
#include "runloop/daemon/durations.h"
#include "runloop/daemon/limits.h"
#include "runloop/daemon/ring_server.h"
#include "runloop/daemon/session_outbox.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

constexpr uint32_t kVersion = 1;  // the only one spoken
constexpr size_t kMaxClientName = 128;

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

// What others tell the stream by, while there is one: posts to its thread.
class SessionStream::Link final : public RingOwner, public std::enable_shared_from_this<Link> {
 public:
  Link(std::shared_ptr<CompletionThread> completion, std::shared_ptr<RingServer> rings,
       SessionStream* stream)
      : completion_(std::move(completion)), rings_(std::move(rings)), stream_(stream) {}

  // Any thread.
  void OnRing(std::shared_ptr<SessionRing> ring) override {
    completion_->Post([self = shared_from_this(), ring = std::move(ring)] {
      if (self->stream_ != nullptr) {
        self->stream_->OnRing(ring);
      } else {
        self->rings_->Close(*ring);
      }
    });
  }
  void OnRingEnd(absl::Status why) override {
    completion_->Post([self = shared_from_this(), why = std::move(why)] {
      if (self->stream_ != nullptr) self->stream_->OnRingEnd(why);
    });
  }
  void OnOutcomes() {
    completion_->Post([self = shared_from_this()] {
      if (self->stream_ != nullptr) self->stream_->Advance();
    });
  }

  // The stream's thread.
  void Cut() { stream_ = nullptr; }

 private:
  const std::shared_ptr<CompletionThread> completion_;
  const std::shared_ptr<RingServer> rings_;
  SessionStream* stream_;  // the stream's thread only
};

class SessionStream::Outbox final : public SessionOutbox {
 public:
  explicit Outbox(std::shared_ptr<Link> link) : link_(std::move(link)) {}

 private:
  void Wake() override { link_->OnOutcomes(); }

  const std::shared_ptr<Link> link_;
};

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
  SessionRequestReader& request = server_.tools().reader;
  if (bytes == nullptr) {
    // Either the worker has half-closed or it has gone; OnGone comes too if it has.
    half_closed_ = true;
    if (stage_ == Stage::kHello) End(Violation("it ended without a hello"));
    if (ring_ != nullptr) server_.options().rings->EndRequests(*ring_);
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
  if (stage_ == Stage::kHello) {
    End(Draining());
  } else if (ring_ != nullptr) {
    server_.options().rings->BeginDrain(*ring_,
                                        server_.drain_left().value_or(absl::ZeroDuration()));
  } else {
    protocol_->BeginDrain(server_.drain_left().value_or(absl::ZeroDuration()));
  }
  Advance();
}

void SessionStream::Advance() {
  if (broken_ || finishing_) return;
  if (!writing_ && !ending_ && FillResponse()) {
    writing_ = true;
    call_.Write(SerializeToBytes(response_));
  }
  if (!writing_) {
    if (!ending_ && stage_ == Stage::kOpen && settled()) {
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
  if (unsent_bytes() + written_bytes_ >= SessionProtocol::kMaxUnsentBytes) return;
  reading_ = true;
  call_.Read();
}

bool SessionStream::FillResponse() {
  if (stage_ != Stage::kOpen) return false;
  if (!welcomed_) {
    welcomed_ = true;  // Welcome has filled it
    return true;
  }
  if (ring_ != nullptr) return false;
  do {
    if (protocol_->FillResponse(server_.tools(), response_)) {
      written_bytes_ = protocol_->last_response_bytes();
      return true;
    }
  } while (!protocol_->outbox().Sleep());
  return false;
}

bool SessionStream::settled() const {
  return ring_ != nullptr ? ring_settled_ : protocol_->settled();
}

size_t SessionStream::unsent_bytes() const {
  return protocol_ == nullptr || ring_ != nullptr ? 0 : protocol_->unsent_bytes();
}

absl::Status SessionStream::HandleRequest(const SessionRequestReader& request) {
  if (ring_ != nullptr) return Violation("a message came by the stream after a ring was attached");
  internal::RuntimeCore::Group group(server_.core(), session_);
  absl::Status status = protocol_->Handle(server_.tools(), group);
  group.Flush();
  if (!request.dispatches().empty()) call_.completion().ExpectPost();
  return status;
}

void SessionStream::OnRing(std::shared_ptr<SessionRing> ring) {
  if (ending_ || broken_ || ring_ != nullptr || protocol_->last_id() > 0) {
    server_.options().rings->Close(*ring);
    End(Violation("a ring is attached once, and before anything is dispatched"));
    return Advance();
  }
  ring_ = std::move(ring);
  server_.options().rings->Start(ring_);
  session_->SetTransport({.name = "ring", .why = "the worker has attached one"});
  if (draining_) {
    server_.options().rings->BeginDrain(*ring_,
                                        server_.drain_left().value_or(absl::ZeroDuration()));
  }
  if (half_closed_) server_.options().rings->EndRequests(*ring_);
}

void SessionStream::OnRingEnd(absl::Status why) {
  if (why.ok()) {
    ring_settled_ = true;
  } else if (absl::IsAborted(why)) {
    End(std::move(why));  // the worker has gone, or goes
  } else if (!ending_) {
    server_.log().Warn(absl::StrCat("ended session ", session_->info().id, " of process ",
                                    session_->info().peer.pid, ": ", why.message()));
    End(std::move(why));
  }
  Advance();
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
  link_ = std::make_shared<Link>(server_.options().completion, server_.options().rings, this);
  const Session::Transport transport = ChooseTransport(hello);
  const bool offers_ring = transport.name == "ring";
  session_->SetTransport(
      {.name = "stream", .why = offers_ring ? "the worker has attached no ring" : transport.why});
  response_.mutable_welcome()->set_side_channel_token(
      server_.options().callers->AddSession(session_, offers_ring ? link_ : nullptr));
  protocol_ =
      std::make_unique<SessionProtocol>(server_.terms(), session_, std::make_shared<Outbox>(link_));
  stage_ = Stage::kOpen;
  server_.SessionOpened();

  v1::Welcome& welcome = *response_.mutable_welcome();
  welcome.set_version(kVersion);
  welcome.set_session_id(session_->info().id);
  welcome.set_transport(offers_ring ? v1::TRANSPORT_RING : v1::TRANSPORT_STREAM);
  welcome.set_runtime_id(server_.core().id());
  *welcome.mutable_limits() = LimitsOf(server_.core(), server_.options().max_message_bytes,
                                       server_.options().max_unfinished);
  uint32_t id = 0;
  for (const Operation* operation : server_.terms().operations) {
    v1::OperationId& named = *welcome.add_operations();
    named.set_id(++id);
    named.set_name(operation->name());
    named.set_request_type(operation->method().input_type()->full_name());
    named.set_reply_type(operation->method().output_type()->full_name());
  }
  return absl::OkStatus();
}

Session::Transport SessionStream::ChooseTransport(const v1::Hello& hello) {
  if (server_.options().rings == nullptr) {
    return {.name = "stream", .why = server_.options().why_no_rings};
  }
  for (const int transport : hello.transports()) {
    if (transport == v1::TRANSPORT_RING) return {.name = "ring", .why = ""};
  }
  return {.name = "stream", .why = "the worker has not offered a ring"};
}

void SessionStream::End(absl::Status status) {
  if (!ending_) ending_ = std::move(status);
  EndSession();
}

void SessionStream::EndSession() {
  if (session_ == nullptr) return;
  // The ring first: outcomes that come of the end are not for a worker that has lost the session.
  if (ring_ != nullptr) server_.options().rings->Close(*ring_);
  session_->End();
  server_.options().callers->RemoveSession(*session_);
  link_->Cut();
  protocol_->End();
  if (!std::exchange(session_ended_, true)) server_.SessionEnded();
}

}  // namespace runloop::daemon

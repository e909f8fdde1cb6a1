#include "runloop/daemon/session_stream.h"

#include <poll.h>

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/durations.h"
#include "runloop/daemon/limits.h"
#include "runloop/daemon/peer_process.h"
#include "runloop/daemon/ring_server.h"
#include "runloop/daemon/session_outbox.h"
#include "runloop/ipc/priority_codec.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

constexpr uint32_t kVersion = 1;  // the only one spoken
constexpr size_t kMaxClientName = 128;
constexpr size_t kSessionIdSize = 32;

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

// A connection that a call came by, while the call lives.
bool HasHungUp(int fd) {
  pollfd connection{.fd = fd, .events = POLLRDHUP, .revents = 0};
  return poll(&connection, 1, 0) > 0;
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
class SessionStream::Link final : public RingOwner,
                                  public SessionOutbox::Waker,
                                  public std::enable_shared_from_this<Link> {
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
        (void)self->rings_->Close(*ring);
      }
    });
  }
  void OnRingEnd(absl::Status why) override {
    completion_->Post([self = shared_from_this(), why = std::move(why)] {
      if (self->stream_ != nullptr) self->stream_->OnRingEnd(why);
    });
  }
  void OnOutcomes() override {
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
  LoseWorker();
}

void SessionStream::OnRead(grpc::ByteBuffer* bytes) {
  reading_ = false;
  SessionRequestReader& request = server_.tools().reader;
  if (bytes == nullptr) {
    // Either the worker has half-closed or it has gone; OnGone comes too if it has.
    half_closed_ = true;
    awaits_ring_ = false;
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
  } else if (protocol_ != nullptr) {
    protocol_->BeginDrain(server_.drain_left().value_or(absl::ZeroDuration()));
  }
  Advance();
}

void SessionStream::Advance() {
  if (broken_ || finishing_) return;
  // However much is published, the stream ends.
  if (!ending_ && (half_closed_ || draining_) && stage_ == Stage::kOpen && ring_ == nullptr &&
      settled()) {
    (void)protocol_->FinishNotifications();
  }
  std::string response;
  if (!writing_ && !ending_ && FillResponse(response)) {
    writing_ = true;
    const grpc::Slice bytes(response);
    call_.Write(grpc::ByteBuffer(&bytes, 1));
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
  // What the worker says may be all that lets it be written.
  const bool by_stream = protocol_ != nullptr && ring_ == nullptr && !awaits_ring_;
  if (by_stream && !protocol_->MayTakeIn(written_bytes_)) return;
  reading_ = true;
  call_.Read();
}

bool SessionStream::FillResponse(std::string& response) {
  if (stage_ != Stage::kOpen) return false;
  if (!welcomed_) {
    welcomed_ = true;
    response = first_response_.SerializeAsString();
    first_response_.Clear();
    return true;
  }
  if (ring_ != nullptr || awaits_ring_) return false;
  do {
    if (protocol_->FillResponse(server_.tools(), response)) {
      written_bytes_ = protocol_->last_response_bytes();
      return true;
    }
  } while (!protocol_->Sleep());
  return false;
}

bool SessionStream::settled() const {
  if (ring_ != nullptr) return ring_settled_;
  return protocol_ != nullptr && !awaits_ring_ && protocol_->settled();
}

absl::Status SessionStream::HandleRequest(const SessionRequestReader& request) {
  if (ring_ != nullptr) return Violation("a message came by the stream after a ring was attached");
  requested_ = true;
  awaits_ring_ = false;
  internal::RuntimeCore::Group group(server_.core(), session_, server_.core().clock().Now());
  absl::Status status = protocol_->Handle(server_.tools(), group);
  group.Flush();
  if (!request.dispatches().empty()) call_.completion().ExpectPost();
  return status;
}

void SessionStream::OnRing(std::shared_ptr<SessionRing> ring) {
  if (ending_ || broken_ || ring_ != nullptr || requested_) {
    (void)server_.options().rings->Close(*ring);
    End(Violation("a ring is attached once, and before anything is dispatched or subscribed to"));
    return Advance();
  }
  ring_ = std::move(ring);
  awaits_ring_ = false;
  server_.options().rings->Start(ring_, std::move(protocol_));
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
  } else if (absl::IsUnavailable(why)) {
    const bool waits = LoseWorker();
    End(waits ? std::move(why)
              : MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                          std::string(why.message())));
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
      rest.waiting_size() > 0 || rest.call_sites_size() > 0 || rest.outcomes_received() > 0 ||
      rest.subscribes_size() > 0 || rest.unsubscribes_size() > 0) {
    End(Violation("the first message holds hello and nothing else"));
    return;
  }
  // A session that ends meanwhile takes the reader's memory with it.
  const v1::Hello hello = rest.hello();
  if (absl::Status welcomed = Welcome(hello); !welcomed.ok()) End(std::move(welcomed));
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

  // The hello of an attempt that was given up must not take the session from a later one.
  if (!hello.resume_token().empty() && HasHungUp((*connection)->fd())) {
    return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_NOT_CONNECTED,
                     "the connection has ended");
  }
  if (!Resume(hello, (*connection)->peer())) {
    if (absl::Status opened = OpenNew(hello, **connection); !opened.ok()) return opened;
  }
  link_ = std::make_shared<Link>(server_.options().completion, server_.options().rings, this);
  protocol_->outbox().SetWaker(link_);
  const Session::Transport transport = ChooseTransport(hello);
  const bool offers_ring = transport.name == "ring";
  session_->SetTransport(
      {.name = "stream", .why = offers_ring ? "the worker has attached no ring" : transport.why});
  v1::Welcome& welcome = *first_response_.mutable_welcome();
  welcome.set_side_channel_token(
      server_.options().callers->AddSession(session_, offers_ring ? link_ : nullptr));
  stage_ = Stage::kOpen;
  awaits_ring_ = offers_ring && welcome.resumed();

  welcome.set_version(kVersion);
  welcome.set_session_id(session_->info().id);
  if (process_ != nullptr) {
    welcome.set_resume_token(absl::StrCat(session_->info().id, welcome.side_channel_token()));
    *welcome.mutable_resume_grace() = ToProto(server_.options().resume_grace);
  }
  welcome.set_transport(offers_ring ? v1::TRANSPORT_RING : v1::TRANSPORT_STREAM);
  welcome.set_runtime_id(server_.core().id());
  welcome.set_priority(ToProto(session_->info().priority));
  *welcome.mutable_limits() = LimitsOf(server_.core(), server_.options().max_message_bytes,
                                       server_.options().max_unfinished);
  welcome.mutable_limits()->set_max_batch(MaxBatchOf(session_->info().peer));
  uint32_t topic_id = 0;
  for (const std::shared_ptr<const Topic>& topic : server_.core().hub().topics()) {
    v1::TopicId& named = *welcome.add_topics();
    named.set_id(++topic_id);
    named.set_name(topic->name());
    named.set_message_type(topic->type().full_name());
    named.set_latest(topic->latest());
  }
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

bool SessionStream::Resume(const v1::Hello& hello, const PeerIdentity& peer) {
  const std::string& token = hello.resume_token();
  if (token.size() <= kSessionIdSize) return false;
  const std::shared_ptr<Session> session = server_.options().callers->Resumable(
      token.substr(0, kSessionIdSize), std::string_view(token).substr(kSessionIdSize), peer);
  if (session == nullptr) return false;
  Resumed resumed = server_.TakeOver(*session);
  if (resumed.protocol == nullptr) return false;
  if (!resumed.protocol->CanResume(hello.outcomes_received())) {
    server_.EndSession(*resumed.protocol);
    return false;
  }
  protocol_ = std::move(resumed.protocol);
  process_ = std::move(resumed.process);
  session_ = session;
  protocol_->Resume(hello.outcomes_received());
  first_response_.mutable_welcome()->set_resumed(true);
  first_response_.mutable_welcome()->mutable_admitted()->set_watermark(protocol_->last_id());
  return true;
}

absl::Status SessionStream::OpenNew(const v1::Hello& hello, const Connection& connection) {
  absl::StatusOr<std::shared_ptr<Session>> session =
      server_.core().OpenPeerSession({.id = NewSessionId(),
                                      .client_name = CleanName(hello.client_name()),
                                      .peer = connection.peer(),
                                      .transport = "stream",
                                      .priority = runloop::FromProto(hello.priority())});
  if (!session.ok()) return session.status();
  session_ = *std::move(session);
  // Where nobody can tell that the process has ended, its session ends with its connection.
  const bool resumable = hello.resumable() && connection.peer().pid != 0 &&
                         server_.options().resume_grace > absl::ZeroDuration();
  if (resumable) process_ = connection.process();
  protocol_ = std::make_unique<SessionProtocol>(server_.terms(), session_, process_ != nullptr);
  server_.SessionOpened();
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
  // What looks like all that a worker says may be the end of its connection, of which OnGone tells.
  const bool waits = status.ok() && process_ != nullptr;
  if (!ending_) ending_ = std::move(status);
  if (!waits) EndSession();
}

void SessionStream::EndSession() {
  if (session_ == nullptr) return;
  // The ring first: outcomes that come of the end are not for a worker that has lost the session.
  const std::unique_ptr<SessionProtocol> protocol = TakeProtocol();
  server_.EndSession(*protocol);
}

std::unique_ptr<SessionProtocol> SessionStream::TakeProtocol() {
  if (session_ == nullptr) return nullptr;
  session_ = nullptr;
  link_->Cut();
  if (ring_ != nullptr) return server_.options().rings->Close(*ring_);
  return std::move(protocol_);
}

bool SessionStream::LoseWorker() {
  if (session_ == nullptr) return false;
  if (process_ == nullptr || session_->ended() || HasEnded(*process_) ||
      !server_.MayDetach(*session_)) {
    EndSession();
    return false;
  }
  std::unique_ptr<SessionProtocol> protocol = TakeProtocol();
  server_.Detach(std::move(protocol), std::move(process_));
  return true;
}

Resumed SessionStream::HandOver() {
  if (process_ == nullptr || session_ == nullptr || session_->ended()) return {};
  Resumed resumed{.protocol = TakeProtocol(), .process = std::move(process_)};
  End(MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_NOT_CONNECTED,
                "its session was resumed by another stream"));
  Advance();
  return resumed;
}

}  // namespace runloop::daemon

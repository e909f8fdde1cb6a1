#include "runloop/daemon/session_ring.h"

#include <sys/socket.h>

#include <utility>

#include "runloop/daemon/ring_server.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

// Requests that are taken in at once, so that other sessions and the tasks that are queued have
// their turn.
constexpr int kRequestsAtOnce = 64;
// What a worker may do that one of ours does not. Some bells cross an answer.
constexpr uint64_t kUnaskedBells = 64;
constexpr int kFoundNothing = 10'000;
// What is kept of what a large response needed.
constexpr size_t kKeptBytes = size_t{64} << 10;
constexpr int kKeptOutcomes = 256;

}  // namespace

// Wakes the runtime thread.
class SessionRing::Outbox final : public SessionOutbox {
 public:
  explicit Outbox(RingServer& server) : server_(server) {}
  std::weak_ptr<SessionRing> ring;

 private:
  void Wake() override {
    if (std::shared_ptr<SessionRing> mine = ring.lock()) server_.Poke(std::move(mine));
  }

  RingServer& server_;
};

std::shared_ptr<SessionRing> SessionRing::Make(RingServer& server, const SessionTerms& terms,
                                               SessionTools& tools, Options options) {
  auto outbox = std::make_shared<Outbox>(server);
  std::shared_ptr<SessionRing> made(new SessionRing(terms, tools, outbox, std::move(options)));
  outbox->ring = made;
  return made;
}

SessionRing::SessionRing(const SessionTerms& terms, SessionTools& tools,
                         std::shared_ptr<SessionOutbox> outbox, Options options)
    : terms_(terms),
      tools_(tools),
      owner_(std::move(options.owner)),
      charge_(std::move(options.charge)),
      memory_(std::move(options.memory)),
      end_(memory_.NewEnd(RingEnd::Side::kDaemon, static_cast<uint64_t>(terms.max_message_bytes))),
      bell_(std::move(options.bell)),
      channel_(std::move(options.channel)),
      protocol_(terms, tools, std::move(options.session), std::move(outbox)) {}

absl::Status SessionRing::Serve() {
  if (absl::Status status = TakeIn(); !status.ok()) return status;
  if (absl::Status status = WriteResponses(); !status.ok()) return status;
  if (end_.TakeBell()) Ring();
  return absl::OkStatus();
}

absl::Status SessionRing::TakeIn() {
  if (!reads()) return absl::OkStatus();
  internal::RuntimeCore::Group group(*terms_.core, protocol_.session());
  const bool had = more_ || end_.reader().has_bytes();
  more_ = true;
  for (int i = 0; i < kRequestsAtOnce; ++i) {
    const absl::StatusOr<std::optional<std::string_view>> message = end_.reader().Next();
    if (!message.ok()) return Violation(message.status().message());
    if (!message->has_value()) {
      more_ = false;
      if (had && i == 0 && end_.reader().partial_bytes() == 0) {
        if (++found_nothing_ > kFoundNothing) return Violation("its ring says so much for nothing");
      }
      break;
    }
    found_nothing_ = 0;
    absl::Status status = tools_.reader.Read(**message);
    if (status.ok()) status = protocol_.Handle(tools_.reader, group);
    tools_.reader.Clear();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status SessionRing::WriteResponses() {
  RingWriter& writer = end_.writer();
  if (absl::Status status = writer.Flush(); !status.ok()) return Violation(status.message());
  while (writer.left() == 0 && protocol_.FillResponse(response_)) {
    if (!response_.SerializeToString(&bytes_))
      return absl::InternalError("a response is too large");
    const std::string_view message = bytes_;
    absl::Status status = writer.Write(absl::MakeConstSpan(&message, 1));
    if (bytes_.capacity() > kKeptBytes) bytes_ = std::string();
    if (response_.outcomes_size() > kKeptOutcomes) response_ = v1::SessionResponse();
    if (!status.ok()) return Violation(status.message());
  }
  return absl::OkStatus();
}

bool SessionRing::HasWork() const {
  const bool blocked = end_.writer().left() > 0;
  return (reads() && (more_ || end_.reader().has_bytes())) ||
         (blocked ? end_.writer().has_room() : protocol_.outbox().has_tasks());
}

bool SessionRing::AnnounceSleep() {
  const bool blocked = end_.writer().left() > 0;
  if (HasWork()) return false;
  // What gathers while it is blocked waits for room.
  if (!blocked && !protocol_.outbox().Sleep()) return false;
  ++announced_;
  return end_.AnnounceSleep(reads());
}

absl::Status SessionRing::NoteBell() {
  if (++rung_ <= announced_ + kUnaskedBells) return absl::OkStatus();
  return Violation("it rings though nobody waits for it");
}

void SessionRing::BeginDrain(absl::Duration left) {
  draining_ = true;
  protocol_.BeginDrain(left);
}

bool SessionRing::TakeSettled() {
  if (settled_told_ || (!requests_end_ && !draining_) || !protocol_.settled() ||
      end_.writer().left() > 0) {
    return false;
  }
  if (!draining_ && (more_ || end_.reader().has_bytes())) return false;
  settled_told_ = true;
  return true;
}

void SessionRing::Ring() {
  // One byte, or none if many lie there unread: it is not waited for.
  static constexpr char kByte = 0;
  (void)send(channel_->get(), &kByte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void SessionRing::Close() {
  protocol_.End();
  (void)shutdown(channel_->get(), SHUT_RDWR);
}

}  // namespace runloop::daemon

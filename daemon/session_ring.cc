#include "runloop/daemon/session_ring.h"

#include <sys/socket.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/ring_server.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

// What is taken in at once, so that other sessions and the tasks that are queued have their turn.
constexpr size_t kItemsAtOnce = 128;
constexpr int kMessagesAtOnce = 128;
constexpr int kResponsesAtOnce = 16;
constexpr size_t kBytesAtOnce = size_t{64} << 10;
// What a worker may do in a row for nothing. A few bells and looks cross an answer.
constexpr int kForNothing = 1000;
// What is kept of what a large response needed.
constexpr size_t kKeptBytes = size_t{64} << 10;
constexpr size_t kMostBytes = 0x7FFF'FFFF;  // protobuf's, of a message

}  // namespace

// Wakes the runtime thread.
class SessionRing::Waker final : public SessionOutbox::Waker {
 public:
  Waker(RingServer& server, std::weak_ptr<SessionRing> ring)
      : server_(server), ring_(std::move(ring)) {}

  void OnOutcomes() override {
    if (std::shared_ptr<SessionRing> ring = ring_.lock()) server_.Poke(std::move(ring));
  }

 private:
  RingServer& server_;
  const std::weak_ptr<SessionRing> ring_;
};

std::shared_ptr<SessionRing> SessionRing::Make(RingServer& server, const SessionTerms& terms,
                                               Options options) {
  return std::shared_ptr<SessionRing>(new SessionRing(server, terms, std::move(options)));
}

SessionRing::SessionRing(RingServer& server, const SessionTerms& terms, Options options)
    : server_(server),
      terms_(terms),
      session_(std::move(options.session)),
      owner_(std::move(options.owner)),
      charge_(std::move(options.charge)),
      memory_(std::move(options.memory)),
      end_(memory_.NewEnd(RingEnd::Side::kDaemon, static_cast<uint64_t>(terms.max_message_bytes))),
      bell_(std::move(options.bell)),
      channel_(std::move(options.channel)) {}

void SessionRing::Begin(std::unique_ptr<SessionProtocol> protocol,
                        std::weak_ptr<SessionRing> self) {
  protocol_ = std::move(protocol);
  protocol_->outbox().SetWaker(std::make_shared<Waker>(server_, std::move(self)));
}

absl::Status SessionRing::Serve(SessionTools& tools, absl::Time now) {
  if (has_long()) return absl::OkStatus();
  const bool claimed = IsClaimed();
  const uint64_t read = end_.reader().position();
  const uint64_t written = end_.writer().position();
  const bool had_more = more_;
  if (absl::Status status = TakeIn(tools, now); !status.ok()) return status;
  if (!has_long()) {
    if (absl::Status status = WriteResponses(tools); !status.ok()) return status;
  }
  if (end_.TakeBell()) RingWorker();
  if (read != end_.reader().position() || written != end_.writer().position() || had_more) {
    bells_ = claims_ = 0;
  } else if (claimed && ++claims_ > kForNothing) {
    return Violation("its ring says that there is something, again and again, and there is not");
  }
  return absl::OkStatus();
}

absl::Status SessionRing::TakeIn(SessionTools& tools, absl::Time now) {
  if (!more_ && !end_.reader().has_bytes()) return absl::OkStatus();
  internal::RuntimeCore::Group group(*terms_.core, protocol_->session(), now);
  size_t budget = kBytesAtOnce, items = 0;
  for (int i = 0; i < kMessagesAtOnce && items < kItemsAtOnce && reads(); ++i) {
    more_ = true;
    const absl::StatusOr<std::optional<std::string_view>> message = end_.reader().Next(budget);
    if (!message.ok()) return Violation(message.status().message());
    if (!message->has_value()) {
      more_ = false;
      break;
    }
    if ((*message)->size() > kLong) {
      long_message_ = **message;
      break;
    }
    const absl::StatusOr<size_t> held = Read(**message, tools);
    if (!held.ok()) return held.status();
    if ((*message)->size() > kShort && *held > kItemsAtOnce) {
      long_message_ = **message;
      tools.reader.Clear();
      break;
    }
    items += *held;
    const absl::Status status = protocol_->Handle(tools, group);
    tools.reader.Clear();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> SessionRing::Read(std::string_view message, SessionTools& tools) const {
  absl::Status status = tools.reader.Read(message);
  const v1::SessionRequest& rest = tools.reader.rest();
  const std::vector<DispatchView>& dispatches = tools.reader.dispatches();
  const size_t held =
      dispatches.size() +
      static_cast<size_t>(rest.call_sites_size() + rest.cancels_size() + rest.waiting_size() +
                          rest.subscribes_size() + rest.unsubscribes_size());
  const bool one_batch = !dispatches.empty() && dispatches.front().batch_size == held;
  if (status.ok() && message.size() > kShort && held > 1 && !one_batch) {
    status =
        Violation(absl::StrCat("a message of ", message.size(), " bytes in a ring held ", held,
                               " things; one of more than ", kShort, " holds one, or one batch"));
  }
  if (status.ok()) return held;
  tools.reader.Clear();
  return status;
}

absl::Status SessionRing::HandleLong(SessionTools& tools) {
  if (long_reply_) {
    absl::Status written = WriteOne(tools, SessionProtocol::kResponseBytes).status();
    if (end_.TakeBell()) RingWorker();
    return written;
  }
  absl::Status status = Read(*long_message_, tools).status();
  if (status.ok()) {
    // Timeouts begin once it is read.
    internal::RuntimeCore::Group group(*terms_.core, protocol_->session(),
                                       terms_.core->clock().Now());
    status = protocol_->Handle(tools, group);
  }
  tools.reader.Clear();
  end_.reader().Release();  // here, where it may take a while
  return status;
}

absl::Status SessionRing::WriteResponses(SessionTools& tools) {
  RingWriter& writer = end_.writer();
  if (absl::Status status = writer.Flush(); !status.ok()) return Violation(status.message());
  // Some: others publish as fast as the worker reads.
  for (int i = 0; i < kResponsesAtOnce && writer.left() == 0 && protocol_->has_any(); ++i) {
    protocol_->Gather(tools);
    // With the runtime stopped there is no thread to be spared, and nobody to come back for it.
    if (protocol_->next_outcome_bytes() > kLongReply && !terms_.core->stopped()) {
      long_reply_ = true;
      break;
    }
    const absl::StatusOr<bool> any = WriteOne(tools, kLongReply);
    if (!any.ok()) return any.status();
    if (!*any) break;
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> SessionRing::WriteOne(SessionTools& tools, size_t most_bytes) {
  if (!protocol_->FillResponse(tools, response_, most_bytes)) return false;
  if (response_.size() > kMostBytes) return absl::InternalError("a response is too large");
  const std::string_view message = response_;
  absl::Status status = end_.writer().Write(absl::MakeConstSpan(&message, 1));
  if (response_.capacity() > kKeptBytes) response_ = std::string();
  if (!status.ok()) return Violation(status.message());
  return true;
}

bool SessionRing::IsClaimed() const {
  const RingWriter& writer = end_.writer();
  return (reads() && end_.reader().has_bytes()) || (writer.left() > 0 && writer.has_room());
}

bool SessionRing::HasWork() const {
  if (has_long()) return false;
  return IsClaimed() || (reads() && more_) || (end_.writer().left() == 0 && protocol_->has_any());
}

bool SessionRing::AnnounceSleep() {
  if (has_long()) return true;  // who takes it in wakes it
  if (HasWork()) return false;
  // What gathers while it is blocked waits for room.
  if (end_.writer().left() == 0 && !protocol_->Sleep()) return false;
  return end_.AnnounceSleep(reads());
}

absl::Status SessionRing::NoteBell() {
  if (++bells_ <= kForNothing) return absl::OkStatus();
  return Violation("it rings again and again, and has nothing");
}

void SessionRing::BeginDrain(absl::Duration left) {
  draining_ = true;
  protocol_->BeginDrain(left);
}

bool SessionRing::TakeSettled() {
  if (settled_told_ || has_long() || (!requests_end_ && !draining_) || !protocol_->settled()) {
    return false;
  }
  if (!draining_ && (more_ || end_.reader().has_bytes())) return false;
  // However much is published, it ends.
  if (!protocol_->FinishNotifications() || end_.writer().left() > 0) return false;
  settled_told_ = true;
  return true;
}

void SessionRing::RingWorker() {
  // One byte, or none if many lie there unread: it is not waited for.
  static constexpr char kByte = 0;
  (void)send(channel_->get(), &kByte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

std::unique_ptr<SessionProtocol> SessionRing::Close() {
  if (protocol_ != nullptr) protocol_->outbox().SetWaker(nullptr);
  (void)shutdown(channel_->get(), SHUT_RDWR);
  return std::move(protocol_);
}

}  // namespace runloop::daemon

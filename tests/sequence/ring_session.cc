#include "runloop/tests/sequence/ring_session.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "runloop/daemon/session_ring.h"
#include "runloop/ipc/ring.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop::sequence {
namespace {

// As little as may be, so that messages wrap around, and find no room.
constexpr size_t kRingBytes = kMinRingBytes;

class RingSession final : public MessageSession {
 public:
  // What the session stream would be told.
  class Owner final : public daemon::RingOwner {
   public:
    void OnRing(std::shared_ptr<daemon::SessionRing>) override {}
    void OnRingEnd(absl::Status why) override {
      absl::MutexLock lock(&mutex_);
      ends_.push_back(std::move(why));
    }
    std::vector<absl::Status> ends() const {
      absl::MutexLock lock(&mutex_);
      return ends_;
    }

   private:
    mutable absl::Mutex mutex_;
    std::vector<absl::Status> ends_ ABSL_GUARDED_BY(mutex_);
  };

  // A ring, and its side channel.
  struct Link {
    std::shared_ptr<Owner> owner;
    std::shared_ptr<daemon::SessionRing> ring;
    std::shared_ptr<const UniqueFd> daemons_channel;
    // The worker's.
    UniqueFd channel;
    UniqueFd bell;
    RingMemory memory;
    RingEnd end;
  };

  RingSession(std::shared_ptr<daemon::RingServer> server, std::shared_ptr<Session> session,
              Observed& observed, std::unique_ptr<Link> link)
      : MessageSession(server->terms(), *session, observed),
        server_(std::move(server)),
        session_(std::move(session)),
        observed_(observed),
        link_(std::move(link)) {}
  ~RingSession() override {
    if (link_ != nullptr) EndProtocol(server_->Close(*link_->ring));
  }

  static void EndProtocol(const std::unique_ptr<daemon::SessionProtocol>& protocol) {
    if (protocol != nullptr) protocol->End();
  }

  static std::unique_ptr<Link> Begin(daemon::RingServer& server,
                                     const std::shared_ptr<Session>& session, Observed& observed,
                                     std::unique_ptr<daemon::SessionProtocol> protocol) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      observed.Fail("there is no socket for a side channel");
      return nullptr;
    }
    auto daemons = std::make_shared<const UniqueFd>(ends[0]);
    UniqueFd workers(ends[1]);
    auto owner = std::make_shared<Owner>();
    absl::StatusOr<daemon::RingServer::Attached> attached = server.Attach(session, owner, daemons);
    if (!attached.ok()) {
      if (ReasonOf(attached.status()) != v1::ERROR_REASON_SESSION_ENDED) {
        observed.Fail(absl::StrCat("no ring: ", attached.status().message()));
      }
      EndProtocol(protocol);
      return nullptr;
    }
    absl::StatusOr<RingMemory> memory = RingMemory::Map(
        UniqueFd(dup(attached->memory.get())), attached->request_bytes, attached->response_bytes);
    if (!memory.ok()) {
      observed.Fail(absl::StrCat("the ring's memory: ", memory.status().message()));
      EndProtocol(protocol);
      return nullptr;
    }
    memory->TakeFile();  // it need not stay open
    server.Start(attached->ring, std::move(protocol));
    char byte;
    if (recv(workers.get(), &byte, 1, MSG_DONTWAIT) != 1) {
      observed.Fail("a worker was not told that its ring is served");
    }
    RingHeader& header = memory->header();
    return std::unique_ptr<Link>(
        new Link{.owner = std::move(owner),
                 .ring = std::move(attached->ring),
                 .daemons_channel = std::move(daemons),
                 .channel = std::move(workers),
                 .bell = UniqueFd(dup(attached->bell)),
                 .memory = *std::move(memory),
                 .end = RingEnd(RingEnd::Side::kWorker, header, attached->request_bytes,
                                attached->response_bytes, kMaxMessageBytes)});
  }

 private:
  void TellOfCut() {
    server_->ChannelClosed(link_->ring);
    const std::vector<absl::Status> ends = link_->owner->ends();
    Expect(!ends.empty() && ReasonOf(ends.back()) == v1::ERROR_REASON_NOT_CONNECTED,
           "a side channel was closed, and the ring's owner was not told");
  }
  void Serve() { server_->Serve(server_->terms().core->clock().Now()); }
  void ExpectClosed() {
    TakeBytesOfChannel();
    char byte;
    Expect(recv(link_->channel.get(), &byte, 1, MSG_DONTWAIT) == 0,
           "a ring was closed, and its worker not woken");
  }

  void CarryUnheard() override {
    if (link_->end.TakeBell()) RingBell();
    server_->Collect();
    do {
      Serve();
    } while (server_->HasWork());
  }

  bool ended() const override { return session_->ended(); }

  void Reconnect(uint64_t outcomes_received) override {
    TellOfCut();
    std::unique_ptr<daemon::SessionProtocol> protocol = server_->Close(*link_->ring);
    ExpectClosed();
    Expect(protocol->CanResume(outcomes_received), "a session cannot be resumed");
    protocol->Resume(outcomes_received);
    std::unique_ptr<Link> link = Begin(*server_, session_, observed_, std::move(protocol));
    asleep_ = false;
    if (link == nullptr) return Fail("a session that is resumed gets no ring");
    link_ = std::move(link);
  }

  // A long message may hold one thing only, or one batch.
  void Send(const std::string& request) override {
    if (request.size() <= daemon::SessionRing::kShort) return SendMessage(request);
    v1::SessionRequest all;
    Expect(all.ParseFromString(request), "a request does not parse");
    if (all.dispatches_size() > 0 && all.dispatches(0).batch_size() > 0) {
      return SendMessage(request);
    }
    for (const v1::Dispatch& dispatch : all.dispatches()) {
      v1::SessionRequest one;
      *one.add_dispatches() = dispatch;
      SendMessage(one.SerializeAsString());
    }
    all.clear_dispatches();
    SendMessage(all.SerializeAsString());
  }
  void SendMessage(const std::string& request) {
    // What found no room goes first.
    while (link_->end.writer().left() > 0 && link_->owner->ends().empty()) {
      if (link_->end.TakeBell()) RingBell();
      server_->Collect();
      Serve();
      if (absl::Status status = link_->end.writer().Flush(); !status.ok()) {
        return Fail(std::string(status.message()));
      }
    }
    const std::string_view message = request;
    if (absl::Status status = link_->end.writer().Write(absl::MakeConstSpan(&message, 1));
        !status.ok()) {
      Fail(std::string(status.message()));
    }
  }

  void Carry() override {
    NoteEnd();
    for (bool more = true; more;) {
      if (absl::Status status = link_->end.writer().Flush(); !status.ok()) {
        return Fail(std::string(status.message()));
      }
      if (link_->end.TakeBell()) RingBell();
      server_->Collect();
      // One turn does not go to all sessions if it takes long.
      do {
        Serve();
      } while (server_->HasWork());
      more = link_->end.reader().has_bytes();
      if (more && std::exchange(asleep_, false)) {
        Expect(TakeBytesOfChannel() > 0, "there are responses for a worker that was not woken");
      }
      Read();
      NoteEnd();
      more = more || link_->end.writer().left() > 0;
      // What ended it takes nothing more in.
      for (const absl::Status& end : link_->owner->ends()) {
        if (!end.ok()) return Fail(absl::StrCat("the ring has ended: ", end.message()));
      }
    }
    CheckEnd();
    asleep_ = link_->end.AnnounceSleep();
  }

  void Read() {
    while (true) {
      const absl::StatusOr<std::optional<std::string_view>> message = link_->end.reader().Next();
      if (!message.ok()) return Fail(std::string(message.status().message()));
      if (!message->has_value()) return;
      OnResponse(**message);
    }
  }

  // When its owner is told, everything lies in the ring that there is to tell.
  void NoteEnd() {
    if (link_->owner->ends().empty() || std::exchange(end_known_, true)) return;
    if (link_->end.reader().has_bytes()) asleep_ = false;
    Read();
    Expect(ends() && !anything_pending(), "a ring has ended, and something was not told");
  }

  // And it is told as soon as that is so, once.
  void CheckEnd() {
    const size_t told = link_->owner->ends().size();
    Expect(told <= 1, "the owner of a ring was told twice that it has ended");
    Expect(told == 1 || !ends() || anything_pending(),
           "all was told by a ring that is to end, and it has not ended");
  }

  void RingBell() {
    (void)eventfd_write(link_->bell.get(), 1);
    pollfd wakes{.fd = server_->wake_fd(), .events = POLLIN, .revents = 0};
    Expect(poll(&wakes, 1, 0) == 1, "a worker rang, and the runtime was not woken");
  }

  int TakeBytesOfChannel() {
    std::array<char, 64> bytes;
    int taken = 0;
    for (ssize_t got;
         (got = recv(link_->channel.get(), bytes.data(), bytes.size(), MSG_DONTWAIT)) > 0;) {
      taken += static_cast<int>(got);
    }
    return taken;
  }

  void End(bool cut) override {
    if (cut) TellOfCut();
    // As the session stream goes about it.
    EndProtocol(server_->Close(*link_->ring));
    Expect(!link_->end.reader().has_bytes(),
           "something was told of a session whose worker has gone");
    ExpectClosed();
    link_ = nullptr;
  }
  void TellEndOfRequests() override { server_->EndRequests(*link_->ring); }
  void TellDrain(absl::Duration left) override { server_->BeginDrain(*link_->ring, left); }

  const std::shared_ptr<daemon::RingServer> server_;
  const std::shared_ptr<Session> session_;
  Observed& observed_;
  std::unique_ptr<Link> link_;
  bool asleep_ = false;
  bool end_known_ = false;
};

}  // namespace

std::shared_ptr<daemon::RingServer> NewRingServer(const daemon::SessionTerms& terms,
                                                  Observed& observed) {
  constexpr size_t kMaxArriving = size_t{1} << 20;
  absl::StatusOr<std::shared_ptr<daemon::RingServer>> rings =
      daemon::RingServer::Create({.terms = terms,
                                  .ring_bytes = kRingBytes,
                                  // Never started: no message here is long enough to be its.
                                  .completion = std::make_shared<daemon::CompletionThread>(),
                                  .max_arriving_bytes = kMaxArriving,
                                  .max_role_arriving_bytes = kMaxArriving});
  absl::Status status = rings.ok() ? terms.core->AddIntake(*rings) : rings.status();
  if (!status.ok()) observed.Fail(absl::StrCat("there are no rings: ", status.message()));
  return status.ok() ? *std::move(rings) : nullptr;
}

std::unique_ptr<MessageSession> NewRingSession(std::shared_ptr<daemon::RingServer> server,
                                               const std::shared_ptr<Session>& session,
                                               Observed& observed) {
  std::unique_ptr<RingSession::Link> link =
      RingSession::Begin(*server, session, observed,
                         std::make_unique<daemon::SessionProtocol>(server->terms(), session, true));
  if (link == nullptr) return nullptr;
  return std::make_unique<RingSession>(std::move(server), session, observed, std::move(link));
}

}  // namespace runloop::sequence

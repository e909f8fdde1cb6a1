#include "runloop/tests/sequence/stream_session.h"

#include <atomic>
#include <string>
#include <utility>

#include "runloop/daemon/session_outbox.h"
#include "runloop/runtime/core.h"

namespace runloop::sequence {
namespace {

class StreamSession final : public MessageSession {
 public:
  StreamSession(const daemon::SessionTerms& terms, daemon::SessionTools& tools,
                std::shared_ptr<Session> session, Observed& observed)
      : MessageSession(terms, *session, observed),
        terms_(terms),
        tools_(tools),
        waker_(std::make_shared<Waker>()),
        protocol_(terms, std::move(session), true) {
    protocol_.outbox().SetWaker(waker_);
  }
  ~StreamSession() override { protocol_.End(); }

 private:
  class Waker final : public daemon::SessionOutbox::Waker {
   public:
    void OnOutcomes() override { woke = true; }

    std::atomic<bool> woke{false};
  };

  void CarryUnheard() override {
    while (protocol_.FillResponse(tools_, response_)) {
    }
  }

  bool ended() const override { return protocol_.session()->ended(); }

  void Reconnect(uint64_t outcomes_received) override {
    Expect(protocol_.CanResume(outcomes_received), "a session cannot be resumed");
    protocol_.Resume(outcomes_received);
  }

  void Send(const std::string& request) override {
    absl::Status status = tools_.reader.Read(request);
    if (status.ok()) {
      internal::RuntimeCore::Group group(*terms_.core, protocol_.session(),
                                         terms_.core->clock().Now());
      status = protocol_.Handle(tools_, group);
    }
    tools_.reader.Clear();
    Expect(status.ok(), std::string(status.message()));
  }

  void Carry() override {
    Expect(!protocol_.outbox().has_tasks() || waker_->woke, "an outcome woke nobody");
    const bool woke = waker_->woke;
    do {
      while (protocol_.FillResponse(tools_, response_)) {
        Expect(!OnResponse(response_) || woke, "a notification woke nobody");
      }
      waker_->woke = false;
      // As SessionStream::Advance does.
      if (ends() && protocol_.settled()) (void)protocol_.FinishNotifications();
    } while (!protocol_.Sleep());
    Expect(protocol_.settled() == !anything_pending(),
           protocol_.settled() ? "all is told, it says, and something was not"
                               : "something is not told, it says, and all was");
    Expect(protocol_.unsent_bytes() == 0, "all was sent, and some of it is counted as if not");
  }

  void End(bool) override { protocol_.End(); }
  void TellEndOfRequests() override {}  // the stream's own
  void TellDrain(absl::Duration left) override { protocol_.BeginDrain(left); }

  const daemon::SessionTerms& terms_;
  daemon::SessionTools& tools_;
  const std::shared_ptr<Waker> waker_;
  daemon::SessionProtocol protocol_;
  std::string response_;
};

}  // namespace

std::unique_ptr<MessageSession> NewStreamSession(const daemon::SessionTerms& terms,
                                                 daemon::SessionTools& tools,
                                                 const std::shared_ptr<Session>& session,
                                                 Observed& observed) {
  if (session->ended()) return nullptr;
  return std::make_unique<StreamSession>(terms, tools, session, observed);
}

}  // namespace runloop::sequence

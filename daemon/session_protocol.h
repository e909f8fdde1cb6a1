#ifndef RUNLOOP_DAEMON_SESSION_PROTOCOL_H_
#define RUNLOOP_DAEMON_SESSION_PROTOCOL_H_

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runloop/daemon/invocation_window.h"
#include "runloop/daemon/session_outbox.h"
#include "runloop/daemon/session_request_reader.h"
#include "runloop/daemon/spare_requests.h"
#include "runloop/runtime/core.h"
#include "runloop/v1/session.pb.h"

namespace runloop::daemon {

// What all sessions of a server have in common.
struct SessionTerms {
  std::shared_ptr<internal::RuntimeCore> core;
  // An operation's id in every session is its place here, counted from 1.
  std::vector<const Operation*> operations;
  int64_t max_message_bytes = 0;
  int64_t max_unfinished = 0;
};

// What sessions work with while they handle one event, and that is empty before and after. Shared
// by those that are served by one thread, or under one lock.
struct SessionTools {
  explicit SessionTools(int64_t max_unfinished) : reader(max_unfinished) {}
  // Keeps no memory.
  void Trim();
  // Keeps what so many invocations use again.
  void TrimTo(size_t count);

  SessionRequestReader reader;
  SessionOutbox::Tasks finished;
  SpareRequests spare_requests;
};

// What is said in one session after its welcome, whatever carries it: takes requests in, and says
// what is to be answered. Its transport reads, writes, and ends.
//
// Threads: one at a time; the terms outlive it.
//
// What is distrusted: everything in a request. Ids must rise, operations must exist, requests must
// parse, and a request must not hold many times what may be unfinished (SessionRequestReader). What
// concerns one invocation is that invocation's outcome; what breaks the rules (PROTOCOL_VIOLATION)
// ends the session. A worker that does not read its outcomes is not read from, once
// `kMaxUnsentBytes` of them wait.
class SessionProtocol {
 public:
  static constexpr size_t kMaxUnsentBytes = size_t{32} << 20;

  SessionProtocol(const SessionTerms& terms, std::shared_ptr<Session> session,
                  std::shared_ptr<SessionOutbox> outbox);

  // Takes in what the tools' reader has read. An error is a violation of the protocol. What was
  // dispatched is in `group`, of this session.
  absl::Status Handle(SessionTools& tools, internal::RuntimeCore::Group& group);

  // Makes the next response; false: there is nothing to tell.
  bool FillResponse(SessionTools& tools, v1::SessionResponse& response);
  // How many bytes of outcomes were in the last one.
  size_t last_response_bytes() const { return last_response_bytes_; }
  // Bytes of outcomes that no response has held.
  size_t unsent_bytes() const { return outbox_->bytes() + unsent_bytes_; }

  // The next response tells that the daemon drains.
  void BeginDrain(absl::Duration left);
  // Every invocation has its outcome, and a response has told it.
  bool settled() const { return window_.unsettled() == 0; }
  // 0: nothing was dispatched.
  uint64_t last_id() const { return window_.last_id(); }

  const std::shared_ptr<Session>& session() const { return session_; }
  SessionOutbox& outbox() const { return *outbox_; }
  // Ends the session: outcomes are dropped from here on. Idempotent.
  void End();

 private:
  // An end that the worker is told of by itself: of an invocation with a reply or an error; or that
  // it was given up.
  struct Untold {
    uint64_t number = 0;  // InvocationWindow
    Outcome outcome;
    size_t bytes = 0;  // OutcomeBytes
  };

  // Settles what the outbox has, or moves it to unsent_.
  void TakeFinished(SessionTools& tools);
  void FillOutcome(Untold& untold, v1::Outcome& outcome);
  void Cancel(const v1::Cancel& cancel);
  // The worker is to be told of it by itself.
  void Tell(uint64_t number, Outcome outcome);
  // An error is the invocation's outcome.
  absl::Status Dispatch(uint64_t number, const DispatchView& dispatch, SpareRequests& spares,
                        internal::RuntimeCore::Group& group);
  absl::StatusOr<const Operation*> FindOperation(const DispatchView& dispatch) const;

  const SessionTerms& terms_;
  const std::shared_ptr<Session> session_;
  const std::shared_ptr<SessionOutbox> outbox_;

  InvocationWindow window_;
  bool acknowledges_ = false;  // what was settled since the last response
  std::deque<Untold> unsent_;  // taken out of the outbox, or refused
  size_t unsent_bytes_ = 0;    // of unsent_
  size_t last_response_bytes_ = 0;
  std::optional<absl::Duration> drain_left_;  // to be told
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_PROTOCOL_H_

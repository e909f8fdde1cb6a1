#ifndef RUNLOOP_DAEMON_SESSION_PROTOCOL_H_
#define RUNLOOP_DAEMON_SESSION_PROTOCOL_H_

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "runloop/daemon/invocation_window.h"
#include "runloop/daemon/session_notifications.h"
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
  // Of outcomes that all sessions of a user or role hold for their workers.
  size_t max_user_outcome_bytes = size_t{256} << 20;
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
  v1::SessionResponse response;
};

// What is said in one session after its welcome, whatever carries it: takes requests in, and says
// what is to be answered. Its transport reads, writes, and ends; another one may carry it on.
//
// Threads: one at a time; the terms outlive it.
//
// If the worker may resume the session, outcomes that it was told of are kept until it says that it
// has received them, `kMaxKeptBytes` of them at most; what was beyond that is told once. Of all
// sessions of a user or role some `max_user_outcome_bytes` are held: where it is more, those that
// hold more than their share keep none, and are not read from until they have read.
//
// What is distrusted: everything in a request. Ids must rise, operations must exist, requests must
// parse, and a request must not hold many times what may be unfinished (SessionRequestReader). What
// concerns one invocation is that invocation's outcome; what breaks the rules (PROTOCOL_VIOLATION)
// ends the session. A worker that does not read its outcomes is not read from, once
// `kMaxUnsentBytes` of them wait.
class SessionProtocol {
 public:
  static constexpr size_t kMaxUnsentBytes = size_t{32} << 20;
  static constexpr size_t kMaxKeptBytes = size_t{16} << 20;

  SessionProtocol(const SessionTerms& terms, std::shared_ptr<Session> session, bool resumable);
  ~SessionProtocol();

  // Takes in what the tools' reader has read. An error is a violation of the protocol. What was
  // dispatched is in `group`, of this session.
  absl::Status Handle(SessionTools& tools, internal::RuntimeCore::Group& group);

  // A response holds about so much, so that a client with gRPC's default limit of 4 MiB can read
  // it.
  static constexpr size_t kResponseBytes = size_t{1} << 20;
  // Makes the next response, in wire format, with at most so many bytes of outcomes, or with one
  // that has more; false: there is nothing to tell.
  bool FillResponse(SessionTools& tools, std::string& response, size_t most_bytes = kResponseBytes);
  // How many bytes of outcomes were in the last one.
  size_t last_response_bytes() const { return last_response_bytes_; }
  // Bytes that no response has held, of outcomes and of what was subscribed.
  size_t unsent_bytes() const {
    return outbox_->bytes() + unsent_bytes_ + resent_bytes_ + notifications_.unsent_bytes();
  }

  // False: the worker is to read before it is read from. `written`: bytes of responses that it has
  // not taken.
  bool MayTakeIn(size_t written) const {
    const size_t unsent = unsent_bytes() + written;
    return unsent < kMaxUnsentBytes &&
           (unsent < kUncounted ||
            session_->MayHoldOutcomes(unsent, terms_.max_user_outcome_bytes));
  }

  // Of the outcome that the next response begins with, as far as what has finished was gathered.
  size_t next_outcome_bytes() const {
    if (resent_ > 0) return kept_[kept_.size() - resent_].bytes;
    return unsent_.empty() ? 0 : unsent_.front().bytes;
  }

  // And of those that are kept, to be told again.
  size_t held_bytes() const { return outbox_->bytes() + unsent_bytes_ + kept_bytes_; }
  // The next outcome or notification wakes; false: there is something to tell.
  bool Sleep() { return !has_unsaid() && outbox_->Sleep() && notifications_.Sleep(); }
  // True if there is something to tell.
  bool has_any() const { return has_unsaid() || outbox_->has_tasks() || notifications_.has_any(); }
  // The worker wants no more notifications than wait now. True: none does.
  bool FinishNotifications() {
    notifications_.Finish();
    return !notifications_.has_any();
  }

  // Takes what has finished, so that its bytes are counted.
  void Gather(SessionTools& tools) {
    TakeFinished(tools);
    CountHeld();
  }
  // True if nothing was missed for good by a worker that has received so many outcomes.
  bool CanResume(uint64_t outcomes_received) const;
  // Another transport begins: what the worker has not received is told again, before anything else,
  // and what it sends again is passed over. If it CanResume.
  void Resume(uint64_t outcomes_received);

  // The next response tells that the daemon drains.
  void BeginDrain(absl::Duration left);
  // Every invocation has its outcome, and a response has told it.
  bool settled() const { return window_.unsettled() == 0 && resent_ == 0; }
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

  // What it holds is counted by so many bytes at a time.
  static constexpr size_t kUncounted = size_t{64} << 10;

  // Has what it holds counted with that of its user.
  void CountHeld();
  // Something that is neither in the outbox nor published.
  bool has_unsaid() const {
    return resent_ > 0 || acknowledges_ || !unsent_.empty() || drain_left_.has_value();
  }
  // Settles what the outbox has, or moves it to unsent_.
  void TakeFinished(SessionTools& tools);
  static void AddOutcome(uint64_t id, const Outcome& outcome, std::string& response);
  // An error instead of a reply that is larger than a message may be.
  Outcome WithinBound(std::unique_ptr<google::protobuf::Message> reply,
                      const Operation& operation) const;
  // The worker has been told of it.
  void Keep(uint64_t id, Untold told);
  // INVALID_ARGUMENT: it has received more than it was told.
  absl::Status Forget(uint64_t outcomes_received);
  // Tells again what the worker has missed.
  void FillResent(std::string& response, size_t most_bytes);
  void Cancel(const v1::Cancel& cancel);
  // The worker is to be told of it by itself; `bytes` are its OutcomeBytes.
  void Tell(uint64_t number, Outcome outcome, size_t bytes);
  void Tell(uint64_t number, absl::Status outcome);
  // A dispatch, or those of a batch. An error is a violation of the protocol.
  absl::Status TakeIn(absl::Span<const DispatchView> dispatches, SpareRequests& spares,
                      internal::RuntimeCore::Group& group);
  // An error is the invocation's outcome, or that of each; `numbers` has one for each.
  absl::Status Dispatch(uint64_t number, const DispatchView& dispatch, SpareRequests& spares,
                        internal::RuntimeCore::Group& group);
  absl::Status DispatchBatch(absl::Span<const uint64_t> numbers,
                             absl::Span<const DispatchView> dispatches, SpareRequests& spares,
                             absl::Time now);
  // What to dispatch for it, but for its request, which Parse adds.
  absl::StatusOr<internal::RuntimeCore::Call> CallOf(uint64_t number, const DispatchView& dispatch,
                                                     absl::Time now) const;
  static absl::Status Parse(const DispatchView& dispatch, SpareRequests& spares,
                            internal::RuntimeCore::Call& call);
  // RESOURCE_EXHAUSTED: with those that were added last, more are unfinished than may be.
  absl::Status CheckUnfinished(size_t added) const;
  absl::StatusOr<const Operation*> FindOperation(const DispatchView& dispatch) const;
  void KeepCallSite(const v1::CallSite& told);
  // Not known if none was told with this id.
  CallSite FindCallSite(uint32_t id) const;

  const SessionTerms& terms_;
  const std::shared_ptr<Session> session_;
  const std::shared_ptr<SessionOutbox> outbox_;

  // The session's, by their ids, counted from 1.
  std::vector<CallSite> call_sites_;
  SessionNotifications notifications_;
  InvocationWindow window_;
  bool acknowledges_ = false;  // what was settled since the last response
  std::deque<Untold> unsent_;  // taken out of the outbox, or refused
  size_t unsent_bytes_ = 0;    // of unsent_
  size_t last_response_bytes_ = 0;

  struct Kept {
    uint64_t id = 0;
    Outcome outcome;
    size_t bytes = 0;
  };
  const bool resumable_;
  std::deque<Kept> kept_;  // what was told last, in that order
  size_t kept_bytes_ = 0;
  uint64_t outcomes_told_ = 0;
  size_t resent_ = 0;  // so many at the end of kept_ are to be told again
  size_t resent_bytes_ = 0;
  size_t counted_bytes_ = 0;  // of held_bytes
  // What was given up while it ran, by id, until its end is taken. The worker may say so once more,
  // which must not release what it makes before that.
  absl::flat_hash_map<uint64_t, std::shared_ptr<internal::OperationTask>> given_up_;
  // Dispatches up to this id may come again, until a new one does.
  uint64_t sent_again_ = 0;

  std::optional<absl::Duration> drain_left_;  // to be told
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_PROTOCOL_H_

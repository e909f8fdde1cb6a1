#ifndef RUNLOOP_TESTS_SEQUENCE_MESSAGE_SESSION_H_
#define RUNLOOP_TESTS_SEQUENCE_MESSAGE_SESSION_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runloop/daemon/ring_server.h"
#include "runloop/daemon/session_protocol.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/session.h"
#include "runloop/tests/sequence/observed.h"
#include "runloop/tests/sequence/transport.h"
#include "runloop/tests/sequence/worker_subscriptions.h"
#include "runloop/v1/session.pb.h"

namespace runloop::sequence {

// A session of another process, as its worker has it: what it asks for travels in
// v1.SessionRequests through the daemon's own code, what it hears comes in v1.SessionResponses.
// Both ends are in this process, and the daemon's takes things in when the worker's has sent them,
// on the calling thread: nothing waits, and nothing is left to chance.
//
// What carries them: ring_session.h, stream_session.h.
//
// How the steps of a program become messages:
//   kOpen           A session, and its ring or protocol. While the runtime drains it gets none: a
//                   daemon that drains opens no stream, and Attach refuses.
//   kDispatch, kFill  `dispatches`, of a session that has a worker; those of a kFill in one session
//                   go in one message. A refusal is an outcome. All without a key are grouped
//                   (RuntimeCore::Group), by the daemon. To a session without a worker it stays a
//                   call of the runtime, as of a plain call that joins the session.
//   kBatch          `dispatches`, the first of them with a `batch_size`, which say nothing else.
//   kCancel         `cancels`. That it came in time is heard as the outcome CANCELLED.
//   kGiveUp         `cancels` with `give_up`. What has started is told at once, and its end is not;
//                   what has ended has its objects released, and of what was given up before and
//                   still runs nothing is heard, and nothing released. A worker cannot say that
//                   its own deadline has passed (OutcomeKind::kExpired).
//   kForget         The same, of what has ended.
//   kDisconnect     The worker sends no more: RingServer::EndRequests. The daemon's end says when
//                   all is told; then its session ends.
//   kKill           Half of the time the worker goes, and nobody hears what becomes of its work;
//                   else the runtime ends the session, and the worker hears all of it.
//   kCut            The next time that there is something to say or to hear its connection is lost,
//                   and with it the request or what the daemon has answered. The worker resumes the
//                   session by another one, sends again, and subscribes anew. Nobody else notices,
//                   but for what was published just then. It is not lost in the step itself, so
//                   that there is something to lose.
//   kSubscribe, kUnsubscribe  `subscribes` and `unsubscribes`, as the client says them. Not by a
//                   worker that sends no more.
//   kPublish        A call, as the host makes it. All workers hear of it at once, and, if there may
//                   be nothing more for them, hear first what there was before.
//   kTake           Of what the worker has: nothing travels.
//   kBeginDrain, kDrain, kStop  Calls, as the host makes them; the worker is told that it drains.
//   kClosure, kComplete, kFinishClosing, kAdvance, kRun  As ever: they happen in the process.
//   In-process sessions and their steps: as ever, they have no messages.
//
// What there is not:
//   kCancel, kGiveUp and kForget of what a worker that has gone had dispatched. Nobody is left who
//   could ask for it; the programs choose among the others.
//   Requests of less than kLeastRequestBytes (transport.h).
//   Chains of a dispatch: they count for bytes that the programs do not have. That others wait for
//   an invocation is said by `waiting`, of a runtime elsewhere, so that nothing comes of it.
class MessageSession {
 public:
  struct Outcome {
    uint64_t id = 0;
    absl::Status status;
    std::optional<std::string> reply;  // serialized; nothing: success was only acknowledged
  };

  virtual ~MessageSession() = default;

  // The worker sends it, the daemon takes it in, and the worker hears what there is, oldest first.
  // All that there was before has been heard.
  std::vector<Outcome> Say(const v1::SessionRequest& request);
  std::vector<Outcome> Hear();

  // The next Say begins with a lost connection, which takes with it the request, or what the daemon
  // answers; or the next Hear, with what there was to hear. Not if the worker sends no more, or the
  // daemon drains.
  void CutNext(Cut cut) { cut_ = cut; }

  // What the worker has subscribed to. As Say, of what that has to say; if it has any.
  WorkerSubscriptions& subscriptions() { return subscriptions_; }
  std::vector<Outcome> SayOfSubscriptions();

  // The worker sends no more, or the daemon drains: with nothing pending, nothing more is carried.
  bool ends() const { return requests_ended_ || drain_.has_value(); }
  // The worker sends no more. Idempotent.
  void EndRequests();
  // The daemon drains, and has so long. Idempotent.
  void BeginDrain(absl::Duration left);
  // The session is over, and this with it: because its worker was `cut` off, or because its work is
  // done. All that there was has been heard.
  void Leave(bool cut);

 protected:
  MessageSession(const daemon::SessionTerms& terms, const Session& session, Observed& observed)
      : observed_(observed), subscriptions_(terms.core->hub(), session.info().id) {}

  void Fail(const std::string& what) { observed_.Fail(what); }
  void Expect(bool holds, const std::string& what) {
    if (!holds) Fail(what);
  }

  virtual void Send(const std::string& request) = 0;
  // Has the daemon do all that it can do; nobody hears its responses.
  virtual void CarryUnheard() = 0;
  // The session has ended, which nothing resumes.
  virtual bool ended() const = 0;
  // Another connection resumes the session for a worker that has received so many outcomes.
  virtual void Reconnect(uint64_t outcomes_received) = 0;
  // Has the daemon do all that it can do, and passes its responses to OnResponse.
  virtual void Carry() = 0;
  // The daemon ends the session, and so does nothing more.
  virtual void End(bool cut) = 0;
  virtual void TellEndOfRequests() = 0;
  virtual void TellDrain(absl::Duration left) = 0;

  // True if there were notifications in it.
  bool OnResponse(std::string_view bytes);
  // Dispatched, and nothing was heard of it.
  bool anything_pending() const { return !pending_.empty(); }

 private:
  std::vector<Outcome> CarryAll();
  std::vector<Outcome> SayBytes(const std::string& request, bool again);
  // `request` is empty, or on its way; it is said `again` by the next connection.
  void LoseConnection(Cut cut, const std::string& request, bool again);
  void OnDraining(const v1::Draining& draining);
  void OnOutcome(const v1::Outcome& outcome);
  void OnSucceeded(const v1::InvocationRanges& ranges);

  Observed& observed_;
  WorkerSubscriptions subscriptions_;
  std::map<uint64_t, bool> pending_;  // whether a reply is wanted
  uint64_t last_id_ = 0;
  uint64_t outcomes_received_ = 0;
  Cut cut_ = Cut::kNone;
  std::vector<Outcome> heard_;
  bool requests_ended_ = false;
  std::optional<absl::Duration> drain_;
  int drains_heard_ = 0;
  bool ranges_first_ = false;
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_MESSAGE_SESSION_H_

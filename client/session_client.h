#ifndef RUNLOOP_CLIENT_SESSION_CLIENT_H_
#define RUNLOOP_CLIENT_SESSION_CLIENT_H_

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "runloop/client/backlog.h"
#include "runloop/client/connect_schedule.h"
#include "runloop/client/open_session.h"
#include "runloop/client/remote_invocation.h"
#include "runloop/client/remote_subscriptions.h"
#include "runloop/client/request_writer.h"
#include "runloop/client/session_buffers.h"
#include "runloop/client/session_lost.h"
#include "runloop/client/session_stream.h"
#include "runloop/ipc/address.h"
#include "runloop/runtime/event_fd.h"
#include "runloop/runtime/mutex.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop::internal {

class SocketWatch;

// A worker's sessions with a daemon in another process, one after the other. One whose connection
// is lost is suspended, and resumed by another connection as soon as there is one; if the daemon
// does not know it any more, nobody listens, or the daemon's grace is over, it is lost, and the
// next one is opened as soon as the daemon is there.
//
// Threads: Dispatch, Cancel, Close and the rest from any thread; none of them but
// WaitUntilConnected, BringOutcome, Close and a Dispatch that waits for room waits for the daemon.
// One thread of its own connects, and runs Watch callbacks. One thread at a time has the *turn* to
// read outcomes, finish invocations, and send what gathered while a message was being written: a
// thread that waits for an outcome, if there is one, which so is not woken by another; else the
// client's own, once nobody has waited for a millisecond (session_client_turn.cc). A dispatch that
// finds no write in flight sends from the calling thread.
//
// Order: dispatches are sent in the order of the calls; they gather while there is no session.
//
// Trust: a daemon that breaks the protocol loses the session.
//
// Ownership: shared by the contexts' target and the client's own thread; invocations refer to it
// weakly. Close, by the last owner, is what ends the thread.
class SessionClient : public std::enable_shared_from_this<SessionClient> {
 public:
  struct Options {
    Address address;
    std::string client_name;
    absl::Duration connect_timeout;
    int64_t max_unfinished_bytes;
    std::function<void(const SessionLost&)> on_session_lost;  // may be empty
    // Called before the outcomes that a loss brings, if on_session_lost is to follow; may be empty.
    std::function<void()> before_session_lost;
    bool offers_ring = true;
    bool resumes = true;
    Priority priority = Priority::kDefault;
    absl::Duration attach_timeout;  // ConnectOptions::Internal
  };

  // Begins to connect.
  static absl::StatusOr<std::shared_ptr<SessionClient>> Start(Options options);

  // Waits until the first session stands, and says why if it does not within the connect timeout.
  // The client goes on trying then.
  absl::Status WaitUntilConnected();

  // A refusal is the invocation's outcome. Takes the names out of `call` and only reads its
  // request. Waits only for room, if the call says so, and never on the client's own thread.
  // `turn`, if it is not null: gets the turn to read, if that is free, for a BringOutcome that
  // follows at once.
  std::shared_ptr<RemoteInvocation> Dispatch(DispatchTarget::Call& call,
                                             std::shared_ptr<SessionStream>* turn = nullptr);
  // The same for those of a batch, of which there is at least one: a refusal is of all of them.
  std::vector<std::shared_ptr<RemoteInvocation>> DispatchBatch(
      std::vector<DispatchTarget::Call>& calls, bool stop_at_failure);
  void Cancel(RemoteInvocation& invocation);
  // As Cancel, and the daemon answers in any case. False: it has its outcome, or gets it just now,
  // and nothing is said to the daemon.
  bool GiveUp(RemoteInvocation& invocation);
  // As GiveUp; its outcome is CANCELLED then, unless it failed by itself.
  void Stop(RemoteInvocation& invocation);
  // `chain` waits for it by now, through this process.
  void AlsoWaits(RemoteInvocation& invocation, const Chain& chain);

  // Waits until `invocation` is done, or the deadline has come, and reads what the daemon sends if
  // it is this thread's turn. Returns at once on the client's own thread, and on a runtime thread,
  // which serves nobody else while it waits; and with InfinitePast, for a thread that waits for
  // others too: the turn is left to the client's own at once then. With the `turn` that Dispatch
  // gave, it is this thread's already, and it is `now` about.
  void BringOutcome(RemoteInvocation& invocation, absl::Time deadline,
                    std::shared_ptr<SessionStream> turn = nullptr, absl::Time now = {});
  // `invocation` is done, and sleepers of BringOutcome wait for it.
  void WakeSleepers(const RemoteInvocation& invocation);

  // Sends what is unsent, says that it was all, and waits until the daemon has run it; breaks the
  // session if that takes more than `timeout`. On the client's own thread it only begins this, and
  // on_session_lost is not called any more. Call it once.
  void Close(absl::Duration timeout);

  // As RuntimeContext's.
  absl::StatusOr<std::shared_ptr<SubscriptionState>> Subscribe(SubscriptionState::Call call);
  void Unsubscribe(const std::shared_ptr<RemoteSubscription>& subscription);
  // Runs `closure` on the client's thread, later.
  void Post(absl::AnyInvocable<void() &&> closure);

  // Of the session that is open or suspended now; null while there is none.
  std::shared_ptr<SessionBuffers> buffers() const;

  // True on the thread that Watch callbacks run on.
  bool OnClientThread() const;
  const Address& address() const { return options_.address; }

 private:
  using Outcomes = std::vector<std::pair<std::shared_ptr<RemoteInvocation>, absl::StatusOr<Reply>>>;
  // What to begin to send once the lock is free, which rings need not: they take it at once.
  struct Outgoing {
    std::shared_ptr<SessionStream> stream;
    grpc::ByteBuffer message;
    bool half_close = false;  // instead of a message

    void Send();
  };
  // What was left to be run when an invocation is done, and its outcome.
  struct Watched {
    InvocationState::Watchers watchers;
    absl::Status outcome;
  };
  static void RunWatchers(std::vector<Watched> watched);
  // A thread in BringOutcome that waits for its turn or for `invocation`.
  struct Sleeper {
    const RemoteInvocation& invocation;
    CondVar wake;
  };
  // A thread in Dispatch that waits for room.
  struct Caller {
    const SessionClient& client;
    Amount more;

    bool may_go_on() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(client.mutex_);
  };

  explicit SessionClient(Options options);

  // The client's thread. Callbacks that are left when a session has ended.
  void RunWatched();
  // Connecting:
  void Run();
  // False: closed before a session stood.
  bool Connect();
  absl::Status TryConnect();
  // Until when a ring may be waited for, by an attempt that ends at `deadline`: nothing else is
  // looked at meanwhile.
  absl::Time AttachUntil(absl::Time deadline);
  v1::Hello NewHello();
  // Opens a session, or goes on with the one that is suspended. An error: the daemon has broken the
  // protocol.
  // It `resumes` if the hello said so.
  absl::Status BeginSession(bool resumes);
  // What waited for the session: one dispatch, or those of a batch.
  void AddFromBacklog(absl::Span<Backlog::Entry> entries, Outcomes& refused)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True if a stream that ended for this reason leaves a session that can be resumed.
  bool MayResume(const absl::Status& why);
  // Keeps the session to be resumed. True: a write is in flight.
  bool SuspendSession(const absl::Status& why);
  // The suspended session is lost, if there is one.
  void LoseSuspended();
  void NoteFailure(const absl::Status& status, SocketWatch& watch);
  // Until it is time for the next attempt. False: closed.
  bool WaitToTry(SocketWatch& watch);
  // Finishes what may not wait any longer, the first Connect too.
  void ExpireWaiting();
  // While a session is open:
  void Serve();
  // What there is to do for the client's thread; waits until there is something.
  struct OwnWork {
    std::vector<Watched> watched;  // to be run
    bool late = false;             // Close has waited for long enough
    bool stream_ended = false;     // and the turn comes with it, of the thread that found out
    bool has_turn = false;
    absl::Time deadline;  // for reading
  };
  OwnWork AwaitOwnWork();
  // The turn to read for a thread that waits: null, once it need not wait any more. `ended`: it has
  // had one that ends with this; true: and the stream has ended.
  std::shared_ptr<SessionStream> AwaitTurn(RemoteInvocation& invocation, absl::Time deadline,
                                           std::optional<bool> ended);
  // Null: it is not free.
  std::shared_ptr<SessionStream> TakeTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends the calling thread's turn.
  void EndTurn(bool stream_ended) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The turn is free: somebody takes it.
  void PassTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The thread that has the turn:
  void Handle(SessionStream::Event event, SessionStream& stream);
  void Written();
  // Breaks the session if the daemon breaks the protocol.
  void Receive(SessionStream& stream);
  // Ends the session, be it suspended: every unfinished invocation gets one of the two outcomes.
  // What is to be reported, if anything.
  std::optional<SessionLost> EndSession(const absl::Status& why, bool& writing);

  // Waits until there is room and it is this caller's turn; takes the time from the timeouts.
  absl::Status AwaitRoom(absl::Span<RequestWriter::Dispatch> dispatches)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Says that those who wait have a right to the room there is.
  absl::Status CheckTurn() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes a dispatch, or those of a batch, into session_ or backlog_, or says why not.
  absl::Status Admit(absl::Span<const std::shared_ptr<RemoteInvocation>> invocations,
                     absl::Span<RequestWriter::Dispatch> dispatches, WhenFull when_full)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool CancelOrGiveUp(RemoteInvocation& invocation, bool give_up, bool stop = false);

  // The bound of the client's own: RESOURCE_EXHAUSTED.
  bool HasRoom(const Amount& more) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckRoom(const Amount& more) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t unfinished_bytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What to send now; nothing while a write is in flight.
  Outgoing NextOutgoing() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Closed, and nothing waits for a session.
  bool abandoned() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  static void FinishAll(Outcomes outcomes);

  const Options options_;
  const EventFd wake_;  // ends a wait between two attempts
  std::thread thread_;  // set by Start, taken by Close

  // The client's thread.
  ConnectSchedule schedule_;
  absl::Time session_began_;

  mutable Mutex mutex_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  bool report_losses_ ABSL_GUARDED_BY(mutex_) = true;
  absl::Time close_deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;  // the thread has ended

  // What Connect is told.
  std::optional<absl::Status> first_result_ ABSL_GUARDED_BY(mutex_);
  absl::Time first_deadline_ ABSL_GUARDED_BY(mutex_);
  // Why there is no session.
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);

  // A thread has the turn.
  bool turn_taken_ ABSL_GUARDED_BY(mutex_) = false;
  // A thread that waits has had it since the client's thread has looked, which leaves it to such
  // threads for a while, until then.
  bool turn_used_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time turn_left_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::vector<Sleeper*> sleepers_ ABSL_GUARDED_BY(mutex_);
  // A thread that had the turn found that the stream has ended, and left the turn to the client's
  // thread, which ends the session.
  bool stream_ended_ ABSL_GUARDED_BY(mutex_) = false;
  RemoteSubscriptions subscriptions_ ABSL_GUARDED_BY(mutex_);
  std::vector<Watched> watched_ ABSL_GUARDED_BY(mutex_);  // callbacks for the client's thread
  absl::Status violation_ ABSL_GUARDED_BY(mutex_);
  // The client's thread sleeps until the turn is passed to it.
  bool awaits_turn_ ABSL_GUARDED_BY(mutex_) = false;
  CondVar own_thread_;

  // Set while the stream is being opened and until it has ended.
  std::shared_ptr<SessionStream> stream_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<OpenSession> session_ ABSL_GUARDED_BY(mutex_);
  // What waits to be resumed, until when, and why; session_ is null then.
  std::unique_ptr<OpenSession> suspended_ ABSL_GUARDED_BY(mutex_);
  bool received_ ABSL_GUARDED_BY(mutex_) = false;  // something, by the connection there is
  absl::Time resume_until_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Status why_suspended_ ABSL_GUARDED_BY(mutex_);
  // Close has broken the session off.
  bool broken_off_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<SessionBuffers> buffers_ ABSL_GUARDED_BY(mutex_);  // with either
  // Empty while there is a session.
  Backlog backlog_ ABSL_GUARDED_BY(mutex_);
  // Until when the thread sleeps between two attempts; InfinitePast while it does not.
  absl::Time sleeps_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  // Something was dispatched that waits for a session, after there was nothing.
  bool wanted_ ABSL_GUARDED_BY(mutex_) = false;
  // In the order of their calls.
  std::deque<const Caller*> callers_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  InvocationAllocator allocator_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_SESSION_CLIENT_H_

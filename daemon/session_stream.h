#ifndef RUNLOOP_DAEMON_SESSION_STREAM_H_
#define RUNLOOP_DAEMON_SESSION_STREAM_H_

#include <grpcpp/support/byte_buffer.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runloop/daemon/invocation_window.h"
#include "runloop/daemon/session_outbox.h"
#include "runloop/daemon/session_request_reader.h"
#include "runloop/daemon/session_server.h"
#include "runloop/v1/session.pb.h"

namespace runloop::daemon {

// One session stream.
//
// Threads: the completion-queue thread only. One read and one write are outstanding at most; while
// a write is, outcomes gather, and the next write takes them all.
//
// What is distrusted: everything in a request. It must parse, ids must rise, operations must exist,
// requests must parse, and a request must not hold many times what may be unfinished. What concerns
// one invocation is that invocation's outcome; what breaks the rules of the stream
// (PROTOCOL_VIOLATION) ends it, and with it the session. A worker that does not read its outcomes
// is not read from, once `kMaxUnsentBytes` of them wait.
class SessionStream final : public CallHandler {
 public:
  SessionStream(SessionServer& server, Call& call);
  ~SessionStream() override;

  void Start() override;
  void OnRead(grpc::ByteBuffer* bytes) override;
  void OnWritten(bool ok) override;
  void OnGone() override;

  // Outcomes have gathered.
  void OnOutcomes() { Advance(); }
  // The daemon drains: tell the worker, and end the stream when its work is done.
  void BeginDrain();

  static constexpr size_t kMaxUnsentBytes = size_t{32} << 20;

 private:
  enum class Stage { kHello, kOpen };
  // An end that the worker is told of by itself: of an invocation with a reply or an error; or that
  // it was given up.
  struct Untold {
    uint64_t number = 0;  // InvocationWindow
    Outcome outcome;
    size_t bytes = 0;  // OutcomeBytes
  };

  // Starts whatever can be started now: a write, the end, a read.
  void Advance();
  // True if there is something to write.
  bool FillResponse();
  // Settles what the outbox has, or moves it to unsent_.
  void TakeFinished();
  void FillOutcome(Untold& untold, v1::Outcome& outcome);

  void HandleHello(const SessionRequestReader& request);
  absl::Status Welcome(const v1::Hello& hello);
  // An error is a violation of the protocol.
  absl::Status HandleRequest(const SessionRequestReader& request);
  void Cancel(const v1::Cancel& cancel);
  // The worker is to be told of it by itself.
  void Tell(uint64_t number, Outcome outcome);
  // An error is the invocation's outcome.
  absl::Status Dispatch(uint64_t number, const DispatchView& dispatch,
                        internal::RuntimeCore::Group& group);
  absl::StatusOr<const Operation*> FindOperation(const DispatchView& dispatch) const;

  // Ends the stream with `status` as soon as no write is outstanding.
  void End(absl::Status status);
  void EndSession();

  SessionServer& server_;
  Call& call_;

  Stage stage_ = Stage::kHello;
  bool welcomed_ = false;  // the welcome is being or has been written
  bool reading_ = false;
  bool writing_ = false;
  bool half_closed_ = false;  // the worker has said all it will
  bool broken_ = false;       // the peer has gone: start nothing more
  bool draining_ = false;
  bool drain_told_ = false;
  bool finishing_ = false;              // Finish was started
  std::optional<absl::Status> ending_;  // what to finish with

  v1::SessionResponse response_;
  std::shared_ptr<Session> session_;
  bool session_ended_ = false;
  std::shared_ptr<SessionOutbox> outbox_;
  InvocationWindow window_;
  bool acknowledges_ = false;  // what was settled since the last response
  std::deque<Untold> unsent_;  // taken out of the outbox, or refused
  size_t unsent_bytes_ = 0;    // of unsent_
  size_t written_bytes_ = 0;   // of the outstanding write
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_STREAM_H_

#ifndef RUNLOOP_DAEMON_SESSION_STREAM_H_
#define RUNLOOP_DAEMON_SESSION_STREAM_H_

#include <grpcpp/support/byte_buffer.h>

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "runloop/daemon/session_protocol.h"
#include "runloop/daemon/session_request_reader.h"
#include "runloop/daemon/session_ring.h"
#include "runloop/daemon/session_server.h"
#include "runloop/v1/session.pb.h"

namespace runloop::daemon {

// One session stream: opens and ends a session, and carries its messages, unless a ring does.
//
// Threads: the completion-queue thread only. One read and one write are outstanding at most; while
// a write is, outcomes gather, and the next write takes them all.
//
// What is distrusted: everything in a message. What breaks the rules (PROTOCOL_VIOLATION) ends the
// stream, and with it the session. A stream that breaks, or whose ring the worker lets go of, ends
// alone if the worker may resume the session: that goes on in another one.
class SessionStream final : public CallHandler {
 public:
  SessionStream(SessionServer& server, Call& call);
  ~SessionStream() override;

  void Start() override;
  void OnRead(grpc::ByteBuffer* bytes) override;
  void OnWritten(bool ok) override;
  void OnGone() override;

  // The daemon drains: tell the worker, and end the stream when its work is done.
  void BeginDrain();

  // Null: none is open here.
  const Session* session() const { return session_.get(); }
  // Its worker resumes the session by another stream: this one ends, and gives what was said. Null:
  // the session has ended, or cannot be resumed.
  Resumed HandOver();

 private:
  class Link;
  enum class Stage { kHello, kOpen };

  // Starts whatever can be started now: a write, the end, a read.
  void Advance();
  // True if there is something to write.
  bool FillResponse(std::string& response);

  void HandleHello(const SessionRequestReader& request);
  absl::Status Welcome(const v1::Hello& hello);
  // Goes on with the session that the worker names; false: it is to get a new one.
  bool Resume(const v1::Hello& hello, const PeerIdentity& peer);
  absl::Status OpenNew(const v1::Hello& hello, const Connection& connection);
  // Why its messages travel by the stream: nothing yet, if a ring may still be attached.
  Session::Transport ChooseTransport(const v1::Hello& hello);
  // An error is a violation of the protocol.
  absl::Status HandleRequest(const SessionRequestReader& request);
  void OnRing(std::shared_ptr<SessionRing> ring);
  void OnRingEnd(absl::Status why);
  bool settled() const;

  // Ends the stream with `status` as soon as no write is outstanding.
  void End(absl::Status status);
  void EndSession();
  // The worker does not hear this stream any more. True: the session waits to be resumed; else it
  // has ended.
  bool LoseWorker();
  // What is said in the session, which is not this stream's any more. Null: there is none.
  std::unique_ptr<SessionProtocol> TakeProtocol();

  SessionServer& server_;
  Call& call_;

  Stage stage_ = Stage::kHello;
  bool welcomed_ = false;  // the welcome is being or has been written
  bool reading_ = false;
  bool writing_ = false;
  bool half_closed_ = false;  // the worker has said all it will
  bool broken_ = false;       // the peer has gone: start nothing more
  bool draining_ = false;
  bool finishing_ = false;              // Finish was started
  std::optional<absl::Status> ending_;  // what to finish with

  v1::SessionResponse first_response_;       // the welcome
  std::shared_ptr<Session> session_;         // null: it has none, or none any more
  std::shared_ptr<const UniqueFd> process_;  // of a worker that may resume it
  std::shared_ptr<Link> link_;
  std::unique_ptr<SessionProtocol> protocol_;  // null without a session; else a ring has it
  std::shared_ptr<SessionRing> ring_;          // null: the stream carries the messages
  bool requested_ = false;                     // a request came by the stream
  // A session that goes on waits whether a ring is attached; nothing is said before.
  bool awaits_ring_ = false;
  bool ring_settled_ = false;
  size_t written_bytes_ = 0;  // of the outstanding write
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_STREAM_H_

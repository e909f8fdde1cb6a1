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
// stream, and with it the session; so does whatever ends its ring.
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

 private:
  class Link;
  class Outbox;
  enum class Stage { kHello, kOpen };

  // Starts whatever can be started now: a write, the end, a read.
  void Advance();
  // True if there is something to write.
  bool FillResponse();

  void HandleHello(const SessionRequestReader& request);
  absl::Status Welcome(const v1::Hello& hello);
  // Why its messages travel by the stream: nothing yet, if a ring may still be attached.
  Session::Transport ChooseTransport(const v1::Hello& hello);
  // An error is a violation of the protocol.
  absl::Status HandleRequest(const SessionRequestReader& request);
  void OnRing(std::shared_ptr<SessionRing> ring);
  void OnRingEnd(absl::Status why);
  bool settled() const;
  size_t unsent_bytes() const;

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
  bool finishing_ = false;              // Finish was started
  std::optional<absl::Status> ending_;  // what to finish with

  v1::SessionResponse response_;
  std::shared_ptr<Session> session_;
  bool session_ended_ = false;
  std::shared_ptr<Link> link_;
  std::unique_ptr<SessionProtocol> protocol_;  // null before the welcome
  std::shared_ptr<SessionRing> ring_;          // null: the stream carries the messages
  bool ring_settled_ = false;
  size_t written_bytes_ = 0;  // of the outstanding write
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_STREAM_H_

#ifndef RUNLOOP_CLIENT_SESSION_STREAM_H_
#define RUNLOOP_CLIENT_SESSION_STREAM_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "runloop/client/daemon_channel.h"
#include "runloop/ipc/address.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {

// One `Dispatcher.Session` stream over one connection of its own, from connecting to its end. It
// neither reconnects nor knows invocations.
//
// Threads: one thread at a time, the reader, calls Handshake and Next and reads what they gave. Any
// thread may call Write, HalfClose and Cancel. Share it: whoever may still be inside Write keeps it
// alive. Destruction breaks a stream that has not ended.
class SessionStream {
 public:
  // Connects and begins the stream. Does not wait for the daemon's answer.
  static absl::StatusOr<std::shared_ptr<SessionStream>> Start(const Address& address,
                                                              v1::Hello hello);

  ~SessionStream();
  SessionStream(const SessionStream&) = delete;
  SessionStream& operator=(const SessionStream&) = delete;

  // Exchanges `hello` and `welcome`; welcome() is then known and Write may be called. What the
  // reader calls first, again and again while it gives nullopt: not over at `deadline`.
  // UNAVAILABLE: the daemon left. Others are the daemon's refusal. After an error the stream is of
  // no more use.
  std::optional<absl::Status> Handshake(absl::Time deadline);
  const v1::Welcome& welcome() const { return welcome_; }

  enum class Event {
    kMessage,      // message() is new
    kWritten,      // what Write or HalfClose began is over
    kWriteFailed,  // so it is, and the stream is ending: what comes next cannot be sent
    kEnded,        // end_status() says why; there are no more messages. Comes once
    kTimeout,
  };
  // Waits for what happens next, until `deadline` of Clock::Monotonic(). What Write began is
  // reported after the end, too.
  Event Next(absl::Time deadline);
  v1::SessionResponse& message() { return message_; }
  const absl::Status& end_status() const { return end_status_; }

  // Begins to send one message, or the end of all messages. The next one may begin once kWritten
  // was reported.
  void Write(const grpc::ByteBuffer& message);
  void HalfClose();

  // The daemon has closed the connection: what is written now does not reach it, and the stream
  // will end. Any thread; asks the kernel.
  bool PeerHasGone() const;

  // Breaks the stream: it ends soon, with CANCELLED.
  void Cancel();

 private:
  enum Tag : intptr_t { kStarted = 1, kRead, kWrite, kFinished };

  SessionStream(Address address, v1::Hello hello, DaemonChannel channel);

  static void* ToTag(Tag tag) { return reinterpret_cast<void*>(tag); }
  void Finish();

  // Constant after construction, or thread-safe.
  const Address address_;
  const v1::Hello hello_;
  const UniqueFd socket_;  // the stream's
  grpc::CompletionQueue queue_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;

  // The reader only.
  grpc::ByteBuffer incoming_;
  v1::SessionResponse message_;
  v1::Welcome welcome_;
  bool hello_written_ = false;
  bool welcomed_ = false;
  grpc::Status grpc_status_;
  absl::Status end_status_;
  bool finishing_ = false;
  bool ended_ = false;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_SESSION_STREAM_H_

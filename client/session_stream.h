#ifndef RUNLOOP_CLIENT_SESSION_STREAM_H_
#define RUNLOOP_CLIENT_SESSION_STREAM_H_

#include <atomic>
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
#include "runloop/client/session_ring.h"
#include "runloop/ipc/address.h"
#include "runloop/runtime/mutex.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {

// One `Dispatcher.Session` stream over one connection of its own, from connecting to its end, and
// the ring that carries its messages, if there is one. It neither reconnects nor knows invocations.
//
// Threads: one thread at a time, the reader, calls Handshake, AttachRing and Next and reads what
// they gave. Any thread may call Write, WriteToRing, Flush, HalfClose and Cancel. Share it: whoever
// may still be inside Write keeps it alive. Destruction breaks a stream that has not ended.
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
  // If the daemon offers rings, asks for them, for at most `timeout` a step, and no longer than
  // `until`; if it gives none, messages go by the stream. After the handshake, before anything is
  // written. An error: the stream is of no more use. What is written to the ring is guarded by
  // `writes`, which outlives the reader: WriteToRing finds it held, Next and Flush take it.
  absl::Status AttachRing(absl::Duration timeout, absl::Time until, Mutex& writes);

  enum class Event {
    kMessage,      // message() is new
    kWritten,      // what Write or HalfClose began is over
    kRoom,         // there is room for what Write has left: Flush
    kWriteFailed,  // so it is, and the stream is ending: what comes next cannot be sent
    kEnded,        // end_status() says why; there are no more messages. Comes once
    kTimeout,
  };
  // Waits for what happens next, until `deadline` of Clock::Monotonic(). What Write began is
  // reported after the end, too.
  // `hurried`: somebody waits for it.
  Event Next(absl::Time deadline, bool hurried = true);
  v1::SessionResponse& message() { return *received_; }
  const absl::Status& end_status() const { return end_status_; }

  // Constant once AttachRing has returned.
  bool has_ring() const { return ring() != nullptr; }

  // Begins to send one message. The next one may begin once kWritten was reported.
  void Write(const grpc::ByteBuffer& message);
  // Somebody waits for what comes, now.
  void Hurry() {
    if (SessionRing* const attached = ring()) attached->Hurry();
  }
  // Instead, if there is a ring. True: all of it is written, and the next one may follow. False:
  // that may follow once Flush, after kRoom, was true.
  bool WriteToRing(RequestWriter& message) { return ring()->Write(message); }
  bool Flush();
  // Begins to send the end of all messages; kWritten follows. Once Write may be called.
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
  SessionRing* ring() const { return ring_.load(std::memory_order_acquire); }
  void Finish();
  // What the completion queue brings.
  Event NextOfStream(absl::Time deadline);
  // nullopt: there is nothing more from the ring.
  std::optional<Event> NextOfRing(absl::Time deadline, bool hurried);

  // Constant after construction, or thread-safe.
  const Address address_;
  const v1::Hello hello_;
  const UniqueFd socket_;  // the stream's
  grpc::CompletionQueue queue_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;

  // Set once, by AttachRing; others may look by then.
  std::unique_ptr<SessionRing> attached_ring_;
  std::atomic<SessionRing*> ring_{nullptr};

  // The reader only.
  absl::Time ring_closed_ = absl::InfiniteFuture();
  bool overdue_ = false;  // the stream outlived its ring for too long, and was broken
  grpc::ByteBuffer incoming_;
  v1::SessionResponse message_;
  v1::SessionResponse lone_reply_;  // ReadLoneReply's
  v1::SessionResponse* received_ = &message_;
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

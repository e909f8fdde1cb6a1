#ifndef RUNLOOP_DAEMON_SESSION_RING_H_
#define RUNLOOP_DAEMON_SESSION_RING_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/daemon/session_protocol.h"
#include "runloop/ipc/ring.h"
#include "runloop/runtime/buffer_memory.h"
#include "runloop/runtime/unique_fd.h"

namespace runloop::daemon {

class RingServer;
class SessionRing;

// The session stream that a ring is attached to. Any thread.
class RingOwner {
 public:
  virtual ~RingOwner() = default;
  // The worker has `ring`, and waits for RingServer::Start.
  virtual void OnRing(std::shared_ptr<SessionRing> ring) = 0;
  // It carries nothing more. OK: no more requests will come, or the daemon drains, and all that was
  // admitted has its outcome, which was written. UNAVAILABLE: the worker has let go of it, and may
  // resume the session. Else why the session is to be ended.
  virtual void OnRingEnd(absl::Status why) = 0;
};

// The messages of one session, in a pair of rings, from RingServer::Start to RingServer::Close.
//
// Threads: its server's, which serves it under a lock, but for HandleLong.
//
// A request of more than kLong bytes or with a large batch is taken in, and a reply of more than
// kLongReply written, by another thread, and nothing else of the session meanwhile: so everything
// keeps its order.
//
// What is distrusted: all of the memory (ipc/ring.h), and every message (SessionProtocol). How much
// is taken in at once is bounded in items and bytes: a message of more than kShort bytes may hold
// one thing only, or one batch. A worker that rings again and again, or says that there is
// something, for nothing, loses the session.
class SessionRing {
 public:
  static constexpr size_t kShort = size_t{4} << 10;
  static constexpr size_t kLong = size_t{64} << 10;
  // What takes about as long to write as the other thread takes to come.
  static constexpr size_t kLongReply = size_t{256} << 10;

  struct Options {
    std::shared_ptr<Session> session;
    std::shared_ptr<RingOwner> owner;
    RingMemory memory;
    internal::BufferCharge charge;  // for the memory
    UniqueFd bell;                  // an eventfd that the worker rings
    // The side channel that it was attached by, to wake the worker.
    std::shared_ptr<const UniqueFd> channel;
  };
  // The server and the terms outlive it.
  static std::shared_ptr<SessionRing> Make(RingServer& server, const SessionTerms& terms,
                                           Options options);

  // Begins to carry what is said; `self` is this.
  void Begin(std::unique_ptr<SessionProtocol> protocol, std::weak_ptr<SessionRing> self);

  // Takes in some requests, and writes what there is to answer. An error ends the session.
  absl::Status Serve(SessionTools& tools, absl::Time now);
  // A long request or reply was met: Serve does nothing more until another thread has dealt with
  // it, with tools of its own and without the lock. An error ends the session.
  bool has_long() const { return long_message_.has_value() || long_reply_; }
  absl::Status HandleLong(SessionTools& tools);
  void EndLong() {
    long_message_.reset();
    long_reply_ = false;
  }

  // True if Serve would do something.
  bool HasWork() const;
  // The worker, and what has outcomes, wake from now on. False: there is something to do.
  bool AnnounceSleep();
  // The worker has rung. An error ends the session.
  absl::Status NoteBell();

  // The worker sends no more than what is in the ring now.
  void EndRequests() { requests_end_ = true; }
  void BeginDrain(absl::Duration left);
  // True, once: it has nothing more to carry, as RingOwner says.
  bool TakeSettled();

  // Wakes the worker, with a byte; it may find nothing.
  void RingWorker();
  // Nothing is read or written any more: wakes the worker, who finds the side channel closed. What
  // another transport may carry on; null if it had not begun.
  std::unique_ptr<SessionProtocol> Close();

  int bell() const { return bell_.get(); }
  RingOwner& owner() { return *owner_; }
  const Session& session() const { return *session_; }
  // What a long message takes that was not taken in yet.
  size_t long_bytes() const { return end_.reader().long_bytes(); }

  // ---- for the server ----
  bool active = false;      // it is looked at, again and again
  bool closed = false;      // not served any more
  int idle_serves = 0;      // in a row
  size_t counted_long = 0;  // of long_bytes

 private:
  class Waker;

  SessionRing(RingServer& server, const SessionTerms& terms, Options options);

  // The worker says, by what it may write in the memory, that there is something to do.
  bool IsClaimed() const;
  // Worth reading now.
  bool reads() const { return !has_long() && protocol_->MayTakeIn(end_.writer().left()); }
  absl::Status TakeIn(SessionTools& tools, absl::Time now);
  // Reads it into the tools' reader; how many things it holds.
  absl::StatusOr<size_t> Read(std::string_view message, SessionTools& tools) const;
  absl::Status WriteResponses(SessionTools& tools);
  // Writes the next response, with so many bytes of outcomes. False: there is none.
  absl::StatusOr<bool> WriteOne(SessionTools& tools, size_t most_bytes);

  RingServer& server_;
  const SessionTerms& terms_;
  const std::shared_ptr<Session> session_;
  const std::shared_ptr<RingOwner> owner_;
  const internal::BufferCharge charge_;
  const RingMemory memory_;
  RingEnd end_;
  const UniqueFd bell_;
  const std::shared_ptr<const UniqueFd> channel_;
  std::unique_ptr<SessionProtocol> protocol_;  // from Begin to Close
  std::string response_;
  // In the reader's memory, which is left alone meanwhile.
  std::optional<std::string_view> long_message_;
  bool long_reply_ = false;
  bool more_ = false;  // requests have arrived that Serve has left for the next time
  bool requests_end_ = false;
  bool draining_ = false;
  bool settled_told_ = false;
  // Since the worker last brought something or made room: bells, and times that it said so.
  int bells_ = 0;
  int claims_ = 0;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_RING_H_

#ifndef RUNLOOP_CLIENT_SESSION_RING_H_
#define RUNLOOP_CLIENT_SESSION_RING_H_

#include <atomic>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runloop/client/request_writer.h"
#include "runloop/ipc/address.h"
#include "runloop/ipc/ring.h"
#include "runloop/runtime/adaptive_spin.h"
#include "runloop/runtime/event_fd.h"
#include "runloop/runtime/mutex.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {

// The worker's end of the rings of one session (docs/rings.md).
//
// Threads: one thread at a time, the reader, calls Next and reads what it gave. Any thread may call
// the rest. What is written is guarded by a lock of whoever writes, which Write finds held, and
// Next and Flush take.
//
// Trust: a daemon that breaks the rules loses the session, and its memory is read as the daemon
// reads a worker's.
class SessionRing {
 public:
  // Asks the daemon for rings, and waits until it serves them: for `timeout` at each step, and no
  // longer than `until` of Clock::Monotonic(). An error: the session goes on without; but ABORTED:
  // it is of no more use. `writes` guards what is written.
  static absl::StatusOr<std::unique_ptr<SessionRing>> Attach(const Address& address,
                                                             const v1::Welcome& welcome,
                                                             absl::Duration timeout,
                                                             absl::Time until, Mutex& writes);

  enum class Event {
    kMessage,
    kRoom,    // there is room for more of what is left to write
    kClosed,  // the daemon has closed the side channel, and all that it wrote was read
    kTimeout,
  };
  // Waits for what happens next, until `deadline` of Clock::Monotonic(). `message` is good until
  // the next call. If nobody waits for it (not `hurried`) and much has come lately, more of it is
  // waited for, for a moment in which the daemon need not wake anybody.
  Event Next(absl::Time deadline, bool hurried, std::string_view& message);
  // OK, or how the daemon broke the rules. The reader's.
  const absl::Status& error() const { return error_; }

  // Writes one message, once nothing is left of the one before. True: all of it; false: what is
  // left follows with Flush, once Next gave kRoom.
  bool Write(RequestWriter& message);
  bool Flush();

  // Somebody waits for what comes: a reader that is not hurried is to be.
  void Hurry();

  // The daemon has closed it, or has gone: what is written now it does not read. May be false for a
  // moment, while the daemon was at work when it went.
  bool PeerHasGone();
  // Next gives kClosed soon.
  void Shutdown();

 private:
  SessionRing(RingMemory memory, UniqueFd socket, UniqueFd bell, Mutex& writes)
      : memory_(std::move(memory)),
        end_(memory_.NewEnd(RingEnd::Side::kWorker, kMaxMessage)),
        socket_(std::move(socket)),
        bell_(std::move(bell)),
        writes_(writes) {}

  static constexpr uint64_t kMaxMessage = 0x7FFF'FFFF;  // protobuf's

  // True once the side channel is closed.
  bool Sleep(absl::Time deadline);
  // Waits for so long, or until somebody waits for what comes.
  void Nap();
  bool FlushLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(writes_);
  void RingIfWanted() ABSL_EXCLUSIVE_LOCKS_REQUIRED(writes_);
  void RingDaemon();
  // Makes another thread of the daemon look.
  bool Knock();
  // Until the daemon has sent something, or `deadline`; false: it has not.
  bool AwaitByte(absl::Time deadline);
  bool AnnounceSleep();
  bool HasRoom();
  bool HasUnread();
  uint64_t ReadByDaemon();

  const RingMemory memory_;
  // Its writer under writes_, its reader the reader's.
  RingEnd end_;
  const UniqueFd socket_;  // the side channel's; does not block
  const UniqueFd bell_;    // wakes the daemon
  const EventFd nudge_;    // wakes the reader
  std::atomic<bool> closed_{false};
  std::atomic<bool> shut_down_{false};  // by this side
  std::atomic<bool> naps_{false};       // the reader
  std::atomic<bool> sleeps_long_{
      false};  // the reader, and does not look whether requests are taken

  Mutex& writes_;
  std::vector<std::string_view> pieces_ ABSL_GUARDED_BY(writes_);
  bool write_failed_ ABSL_GUARDED_BY(writes_) = false;
  std::atomic<bool> has_rest_{false};  // something is left to write

  // The reader's.
  AdaptiveSpin spin_;
  int since_nap_ = 0;  // messages
  absl::Status error_;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_SESSION_RING_H_

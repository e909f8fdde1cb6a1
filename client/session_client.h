#ifndef RUNLOOP_CLIENT_SESSION_CLIENT_H_
#define RUNLOOP_CLIENT_SESSION_CLIENT_H_

#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/client/remote_invocation.h"
#include "runloop/client/request_batch.h"
#include "runloop/client/session_stream.h"
#include "runloop/client/unfinished.h"
#include "runloop/ipc/address.h"
#include "runloop/runtime/runtime_context.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {

// A worker's session with a daemon in another process, and the one after it when the connection was
// lost.
//
// Threads: Dispatch, Cancel, Close and the rest from any thread; none of them but
// WaitUntilConnected and Close waits for the daemon. One thread of its own connects, reads outcomes
// and finishes invocations (so Watch callbacks run there), and sends what gathered while a message
// was being written. A dispatch that finds no write in flight sends from the calling thread.
//
// Order: dispatches are sent in the order of the calls; they gather while the client connects.
//
// Trust: what the daemon says of invocations is checked against what was sent; a daemon that breaks
// the protocol loses the session.
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
  };

  // Begins to connect.
  static std::shared_ptr<SessionClient> Start(Options options);

  // Waits until the first session stands, and says if it does.
  absl::Status WaitUntilConnected();

  // Never waits. A refusal is the invocation's outcome.
  std::shared_ptr<RemoteInvocation> Dispatch(DispatchTarget::Call call);
  void Cancel(RemoteInvocation& invocation);

  // Sends what is unsent, says that it was all, and waits until the daemon has run it; breaks the
  // session if that takes more than `timeout`. On the client's own thread it only begins this. Call
  // it once.
  void Close(absl::Duration timeout);

  // True on the thread that Watch callbacks run on.
  bool OnClientThread() const;

 private:
  enum class State {
    kIdle,        // no session; the next dispatch connects
    kConnecting,  // dispatches gather in waiting_
    kOpen,
    kDraining,  // the daemon takes no new work and will end the stream
    kStopped,   // the thread has ended
  };
  // Dispatched while there was no session.
  struct Waiting {
    RequestBatch::Dispatch dispatch;
    absl::Time deadline;
  };
  using Finished = std::vector<std::pair<std::shared_ptr<RemoteInvocation>, absl::StatusOr<Reply>>>;
  // A message to begin to send, once the lock is free.
  struct Outgoing {
    std::shared_ptr<SessionStream> stream;
    grpc::ByteBuffer message;
    bool half_close = false;

    void Send();
  };

  explicit SessionClient(Options options);

  // The client's thread.
  void Run();
  bool WaitForWork();
  absl::Status Connect();
  absl::Status TryConnect(absl::Time deadline);
  void BeginSession();
  void Serve();
  void Written();
  // An error if the daemon breaks the protocol.
  absl::Status Receive(v1::SessionResponse& message);
  // Back to kIdle; every unfinished invocation gets one of the two outcomes.
  void EndSession(const absl::Status& sent, const absl::Status& unsent);
  void ExpireWaiting();

  // Takes a dispatch into unfinished_ and into batches_ or waiting_, or says why not.
  absl::Status Admit(const std::shared_ptr<RemoteInvocation>& invocation,
                     RequestBatch::Dispatch dispatch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Appends to batches_, or says which of the daemon's limits forbids it, if `unfinished` are
  // before it.
  absl::Status Append(RequestBatch::Dispatch& dispatch, size_t unfinished)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  RequestBatch& BatchFor(size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What to send now; nothing while a write is in flight.
  Outgoing NextOutgoing() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool left_connecting() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return state_ != State::kConnecting;
  }
  bool has_work() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return state_ == State::kConnecting || closing_;
  }
  bool abandoned() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return closing_ && (close_timed_out_ || unfinished_.size() == 0);
  }
  bool stopped() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return state_ == State::kStopped; }

  static void FinishAll(Finished finished);

  const Options options_;
  std::thread thread_;  // set by Start, taken by Close

  mutable absl::Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kConnecting;
  // Why the last attempt to connect failed.
  absl::Status connect_status_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  bool close_timed_out_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time close_deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();

  // Set while the stream is being opened and until it has ended.
  std::shared_ptr<SessionStream> stream_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool half_closed_ ABSL_GUARDED_BY(mutex_) = false;
  v1::Limits limits_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, uint32_t> operation_ids_ ABSL_GUARDED_BY(mutex_);

  // In the order of ids: sent, then batches_; or waiting_.
  Unfinished unfinished_ ABSL_GUARDED_BY(mutex_);
  std::deque<RequestBatch> batches_ ABSL_GUARDED_BY(mutex_);
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t last_sent_id_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_SESSION_CLIENT_H_

#ifndef RUNLOOP_CLIENT_OPEN_SESSION_H_
#define RUNLOOP_CLIENT_OPEN_SESSION_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "grpcpp/support/byte_buffer.h"
#include "runloop/client/remote_invocation.h"
#include "runloop/client/request_writer.h"
#include "runloop/client/unfinished.h"
#include "runloop/runtime/wait_chain.h"
#include "runloop/v1/session.pb.h"

namespace runloop::internal {

// What dispatches take of the room there is.
struct Amount {
  static Amount Of(absl::Span<const RequestWriter::Dispatch> dispatches);

  size_t invocations = 1;
  bool batch = false;
  size_t request_bytes = 0;
  int64_t charge = 0;  // RemoteInvocation::ChargeOf
};

// The worker's books on one session, from the daemon's welcome to its end: what the daemon allows,
// what is to be sent next, and what has no outcome yet. It sends and finishes nothing itself. Not
// thread-safe.
//
// Trust: what the daemon says of invocations is checked against what was sent.
class OpenSession {
 public:
  // Those that got their outcome.
  struct Finished {
    // One, mostly, where somebody blocks.
    absl::InlinedVector<std::pair<std::shared_ptr<RemoteInvocation>, absl::StatusOr<Reply>>, 1>
        outcomes;
    Unfinished::Invocations succeeded;  // without a reply
  };

  // `message_bytes`: a message gathers no more.
  explicit OpenSession(const v1::Welcome& welcome, size_t message_bytes = kMessageBytes);

  // Its connection is lost, and it may be resumed: nothing is to be sent until Resume. What was
  // sent is kept for it until the daemon is known to have it.
  bool resumable() const { return !resume_token_.empty(); }
  const std::string& resume_token() const { return resume_token_; }
  absl::Duration resume_grace() const { return resume_grace_; }
  uint64_t outcomes_received() const { return outcomes_received_; }
  // Another connection carries it on: what the daemon does not have is sent again, first of all.
  // INVALID_ARGUMENT: the daemon resumes another session, or has more than was sent.
  absl::Status Resume(const v1::Welcome& welcome);
  // The daemon waits for a word by the stream, since there is no ring.
  void SayWithoutRing();
  bool for_ring() const { return message_bytes_ == kRingMessageBytes; }

  const std::string& id() const { return id_; }
  // The daemon takes no new work and will end the stream.
  bool draining() const { return draining_; }
  // What has no outcome yet, sent or not.
  const Unfinished& unfinished() const { return unfinished_; }

  // True if the daemon lets so much more be unfinished.
  // `others` are to come into the session before it.
  bool HasRoom(const Amount& more, size_t others = 0) const;
  // RESOURCE_EXHAUSTED: QUEUE_FULL without room; MESSAGE_TOO_LARGE if there never is any.
  // FAILED_PRECONDITION (VERSION_MISMATCH): the daemon knows no batches. CheckFits looks at what
  // waiting does not change.
  absl::Status CheckRoom(const Amount& more, size_t others = 0) const;
  absl::Status CheckFits(const Amount& more) const;
  absl::Status CheckSize(absl::Span<RequestWriter::Dispatch> dispatches) const;

  // Takes a dispatch, or those of a batch, into the next message, or says which of the daemon's
  // limits forbids it. The ids must be larger than that of any before, and rise.
  absl::Status Add(absl::Span<const std::shared_ptr<RemoteInvocation>> invocations,
                   absl::Span<RequestWriter::Dispatch> dispatches);
  // False: it has its outcome. Nothing is sent if the same was asked before, or no more may be
  // sent.
  bool AddCancel(RemoteInvocation& invocation, bool give_up);
  // Tells who else waits for it by now, at once or when less is unsent; nothing if it has its
  // outcome, or no more may be sent. `chain` is not empty.
  void AddWaiting(const RemoteInvocation& invocation, const Chain& chain);
  // RESOURCE_EXHAUSTED (QUEUE_FULL): much is unsent; unless it `must`. UNAVAILABLE: no more may be
  // sent.
  absl::Status AddSubscribe(const v1::Subscribe& subscribe, bool must);
  // Nothing is sent if no more may be.
  void AddUnsubscribe(uint64_t subscription_id);
  // There will be no more dispatches.
  void Close() { closing_ = true; }

  // So that a flood keeps both ends busy; and in a ring, where a larger message holds one thing.
  static constexpr size_t kMessageBytes = size_t{1} << 20;
  static constexpr size_t kRingMessageBytes = size_t{4} << 10;

  struct Outgoing {
    RequestWriter* message = nullptr;  // until Sent
    bool half_close = false;           // instead of a message
  };
  // False: NextOutgoing would give nothing.
  bool HasOutgoing() const;
  // What to send now. nullopt: nothing, or what it gave before is not yet Written.
  std::optional<Outgoing> NextOutgoing();
  // The message of NextOutgoing was taken. `copied`: nobody refers to its memory.
  void Sent(bool copied);
  void Written() { writing_ = false; }
  // The stream is ending: nothing more is sent.
  void WriteFailed() {
    writing_ = false;
    write_failed_ = true;
  }
  bool writing() const { return writing_; }

  // Adds what got its outcome to `finished`. An error: the daemon broke the protocol.
  absl::Status Receive(v1::SessionResponse& message, Finished& finished);

  // At the end: what has no outcome, in the order of ids.
  struct Rest {
    Unfinished::Invocations sent;
    Unfinished::Invocations unsent;
  };
  Rest TakeRest();
  // Of one that was taken.
  const std::string& OperationOf(const RemoteInvocation& invocation) const;

 private:
  using OperationIds = absl::flat_hash_map<std::string, uint32_t>;

  struct SentMessage {
    RequestWriter message;  // with dispatches
    bool copied = false;
  };

  // The daemon is known to have taken in what was sent up to this id.
  void TakenIn(uint64_t id);
  void GiveBack(RequestWriter& message);
  void NoteAcknowledged();
  void AddCallSite(CallSite site, uint32_t id);
  // Of a message that gathers.
  size_t bound() const;
  uint32_t IdOf(const std::string& operation) const;
  absl::Status CheckMessageBytes(size_t size) const;
  absl::Status CheckBatch(uint64_t invocations) const;
  RequestWriter& MessageFor(size_t bytes);
  // For what ends with the connection: no other connection sends it again.
  RequestWriter& MessageForSubscriptions();
  // The id that stands for it in this session, or would if it was told now; 0: there are too many.
  uint32_t CallSiteIdOf(CallSite site) const;
  // Tells the daemon of it, unless that was done.
  void TellCallSite(CallSite site, uint32_t id);

  const std::string id_;
  const std::string resume_token_;
  const absl::Duration resume_grace_;
  const v1::Limits limits_;
  const size_t message_bytes_;
  const size_t most_messages_;  // with more unsent, nothing is added that is not needed
  const OperationIds operation_ids_;
  absl::flat_hash_map<uint32_t, const std::string*> operation_names_;  // those of operation_ids_
  // The one that was asked for last: a flood asks for the same one again and again.
  mutable OperationIds::const_iterator last_operation_;
  absl::flat_hash_map<CallSite, uint32_t> call_site_ids_;  // those that the daemon is told of
  // The same of these.
  CallSite last_call_site_;
  uint32_t last_call_site_id_ = 0;

  bool draining_ = false;
  bool closing_ = false;
  bool half_closed_ = false;
  bool writing_ = false;
  bool write_failed_ = false;
  // In the order of ids: sent, then messages_.
  Unfinished unfinished_;
  std::deque<RequestWriter> messages_;
  std::vector<RequestWriter> spare_messages_;
  std::optional<RequestWriter> sending_;
  std::deque<SentMessage> sent_;  // that the daemon may not have, if resumable
  // Outcomes of their own that have come, and how many of them the daemon was told of.
  uint64_t outcomes_received_ = 0;
  uint64_t outcomes_acknowledged_ = 0;
  size_t unacknowledged_bytes_ = 0;
  std::deque<v1::Waiting> held_back_;                   // while much is unsent
  absl::flat_hash_map<uint64_t, v1::Waiting> waiting_;  // told, by invocation; if resumable
  uint64_t last_sent_id_ = 0;
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_OPEN_SESSION_H_

#include "runloop/client/connect.h"

#include <errno.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/client/daemon_channel.h"
#include "runloop/client/session_client.h"
#include "runloop/ipc/address.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/hosted_addresses.h"

namespace runloop {
namespace {

using internal::Chain;
using internal::CurrentChain;
using internal::DispatchTarget;
using internal::InvocationState;
using internal::RemoteInvocation;
using internal::Reply;
using internal::SessionBuffers;
using internal::SessionClient;
using internal::SessionStream;
using internal::WaitScope;

// How long the last context waits for the daemon to run what was dispatched.
constexpr absl::Duration kCloseTimeout = absl::Seconds(5);
// When a dispatch that may wait for room is tried again: by default, and at least and at most.
constexpr absl::Duration kRetryDelay = absl::Milliseconds(10);
constexpr absl::Duration kShortestRetryDelay = absl::Milliseconds(1);
constexpr absl::Duration kLongestRetryDelay = absl::Seconds(1);
constexpr size_t kLongestClientName = 128;

// What the contexts of one Connect share.
class RemoteTarget final : public DispatchTarget {
 public:
  RemoteTarget(std::shared_ptr<SessionClient> client, const ConnectOptions& options)
      : client_(std::move(client)),
        give_up_grace_(options.internal.give_up_grace),
        buffers_in_messages_(options.buffers_in_messages) {}
  ~RemoteTarget() override { client_->Close(kCloseTimeout); }

  absl::Status WaitUntilConnected() { return client_->WaitUntilConnected(); }

  std::shared_ptr<InvocationState> Dispatch(Call call) override { return client_->Dispatch(call); }

  std::vector<std::shared_ptr<InvocationState>> DispatchBatch(std::vector<Call> calls,
                                                              bool stop_at_failure) override {
    const auto invocations = client_->DispatchBatch(calls, stop_at_failure);
    return {invocations.begin(), invocations.end()};
  }

  absl::StatusOr<Reply> DispatchBlocking(Call call) override {
    if (call.stop_token.stop_requested()) return internal::StoppedBefore();
    if (client_->OnClientThread()) {
      return absl::FailedPreconditionError(
          "a callback of the client's may not block: it runs on the thread that has to receive the "
          "outcome");
    }
    if (call.delay > absl::ZeroDuration()) return internal::NoDelayWhenBlocking();
    absl::Time now = Clock::Monotonic()->Now();
    const absl::Time deadline = now + call.timeout;
    call.chain = CurrentChain();
    // For another try.
    const bool waits = call.when_full == WhenFull::kWait;
    const std::string operation = waits ? call.operation : "";
    const std::string coalesce_key = waits ? call.coalesce_key : "";
    while (true) {
      absl::StatusOr<Reply> reply = Once(call, now, deadline);
      if (!waits || !absl::IsResourceExhausted(reply.status()) ||
          ReasonOf(reply.status()) != v1::ERROR_REASON_QUEUE_FULL) {
        return reply;
      }
      const absl::Duration delay = std::clamp(RetryDelayOf(reply.status()).value_or(kRetryDelay),
                                              kShortestRetryDelay, kLongestRetryDelay);
      if (Clock::Monotonic()->Now() + delay >= deadline) return reply;
      absl::SleepFor(delay);
      now = Clock::Monotonic()->Now();
      if (call.stop_token.stop_requested()) return internal::StoppedBefore();
      call.operation = operation;
      call.coalesce_key = coalesce_key;
      call.timeout = deadline - now;
    }
  }

  absl::StatusOr<Buffer> NewBuffer(size_t size) override {
    const absl::StatusOr<std::shared_ptr<SessionBuffers>> buffers = Buffers();
    if (buffers.ok()) return (*buffers)->New(size);
    if (!absl::IsFailedPrecondition(buffers.status())) return buffers.status();
    return Buffer::OfBytes(std::string(size, '\0'));
  }
  absl::StatusOr<Buffer> OpenBuffer(v1::BufferRef ref) override {
    const absl::StatusOr<std::shared_ptr<SessionBuffers>> buffers = Buffers();
    if (buffers.ok()) return (*buffers)->Open(std::move(ref));
    return internal::OpenPiece(
        std::move(ref),
        [&](uint64_t) -> absl::StatusOr<internal::BufferView> { return buffers.status(); });
  }
  absl::Status Grant(const Buffer& buffer, const std::string& session_id,
                     BufferAccess access) override {
    const absl::StatusOr<std::shared_ptr<SessionBuffers>> buffers = Buffers();
    if (!buffers.ok()) return buffers.status();
    if (BufferId(buffer) == 0) return NoDescriptors();
    return (*buffers)->Grant(buffer, session_id, access == BufferAccess::kWrite);
  }
  absl::StatusOr<uint64_t> SendDescriptor(int fd) override {
    const absl::StatusOr<std::shared_ptr<SessionBuffers>> buffers = Buffers();
    if (!buffers.ok()) return buffers.status();
    return (*buffers)->SendDescriptor(fd);
  }
  absl::StatusOr<std::shared_ptr<internal::SubscriptionState>> Subscribe(
      internal::SubscriptionState::Call call) override {
    return client_->Subscribe(std::move(call));
  }
  std::string SessionId() override {
    const std::shared_ptr<SessionBuffers> buffers = client_->buffers();
    return buffers == nullptr ? "" : buffers->session_id();
  }

 private:
  static absl::Status NoDescriptors() {
    return absl::FailedPreconditionError(
        "the connection carries no file descriptors: the bytes of buffers travel in messages");
  }
  // FAILED_PRECONDITION: their bytes travel in messages.
  absl::StatusOr<std::shared_ptr<SessionBuffers>> Buffers() const {
    if (buffers_in_messages_) return NoDescriptors();
    std::shared_ptr<SessionBuffers> buffers = client_->buffers();
    if (buffers == nullptr) {
      return internal::NotConnected("there is no session with the daemon: try again");
    }
    if (!buffers->offered()) return NoDescriptors();
    return buffers;
  }

  // Takes the names out of `call` and leaves its request. It is `now`; its timeout ends at
  // `deadline`.
  absl::StatusOr<Reply> Once(Call& call, absl::Time now, absl::Time deadline) {
    const absl::Duration timeout = call.timeout;
    // Only a runtime thread's wait concerns anybody else.
    const bool on_runtime_thread = internal::OnARuntimeThread();
    std::string what;
    if (on_runtime_thread) {
      what = absl::StrCat(call.operation, " at ", client_->address().ToString());
    }
    std::shared_ptr<SessionStream> turn;  // which a runtime thread does not take
    const std::shared_ptr<RemoteInvocation> invocation =
        client_->Dispatch(call, on_runtime_thread ? nullptr : &turn);
    std::optional<WaitScope> wait;
    if (on_runtime_thread) {
      wait.emplace(std::move(what),
                   [invocation](Chain chain) { invocation->AlsoWaits(std::move(chain)); });
    }
    // The daemon's answer ends the wait.
    const std::stop_callback on_stop(call.stop_token, [&] { invocation->Stop(); });
    if (turn != nullptr) client_->BringOutcome(*invocation, deadline, std::move(turn), now);
    if (invocation->WaitUntil(deadline)) return invocation->AwaitReply(absl::ZeroDuration());
    // The daemon answers in any case, unless it is stuck or gone.
    const bool given_up = client_->GiveUp(*invocation);
    invocation->Await(give_up_grace_).IgnoreError();
    if (invocation->done() && !given_up) return invocation->AwaitReply(absl::ZeroDuration());
    if (!invocation->done()) {
      return MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                       absl::StrCat("not finished after ", absl::FormatDuration(timeout),
                                    "; no word from the daemon on whether it started"));
    }
    absl::StatusOr<Reply> reply = invocation->AwaitReply(absl::ZeroDuration());
    switch (ReasonOf(reply.status())) {
      case v1::ERROR_REASON_CANCELLED:
      case v1::ERROR_REASON_EXPIRED:
        return MakeError(
            absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_EXPIRED,
            absl::StrCat("not started after ", absl::FormatDuration(timeout), "; it never runs"));
      default:
        break;
    }
    if (!reply.ok()) return reply;
    // It crossed the daemon's word, and what it made is released.
    return MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                     absl::StrCat("not finished after ", absl::FormatDuration(timeout),
                                  "; it ended a moment later, and what it made is released"));
  }

  const std::shared_ptr<SessionClient> client_;
  const absl::Duration give_up_grace_;
  const bool buffers_in_messages_;
};

// What fits the field of the protocol: short, and UTF-8.
std::string ClientName(const std::string& given) {
  std::string name = given.empty() ? program_invocation_short_name : given;
  if (name.size() > kLongestClientName) name.resize(kLongestClientName);
  for (char& c : name) {
    if (static_cast<unsigned char>(c) >= 0x80) c = '?';
  }
  return name;
}

}  // namespace

absl::StatusOr<RuntimeContext> Connect(const ConnectOptions& options) {
  absl::StatusOr<Address> address =
      options.address.empty() ? DefaultAddress() : ParseAddress(options.address);
  if (!address.ok()) return address.status();
  const std::string client_name = ClientName(options.client_name);
  if (std::optional<LocalRuntimeContext> local = FindHostedAddress(address->ToString())) {
    return local->WithPriority(options.priority).AsRuntimeContext(client_name);
  }
  absl::StatusOr<std::shared_ptr<SessionClient>> client =
      SessionClient::Start({.address = *std::move(address),
                            .client_name = client_name,
                            .connect_timeout = options.connect_timeout,
                            .max_unfinished_bytes = options.max_unfinished_bytes,
                            .on_session_lost = options.on_session_lost,
                            .before_session_lost = options.internal.before_session_lost,
                            .offers_ring = options.ring,
                            .resumes = options.resume,
                            .priority = options.priority,
                            .attach_timeout = options.internal.attach_timeout});
  if (!client.ok()) return client.status();
  auto target = std::make_shared<RemoteTarget>(*std::move(client), options);
  if (absl::Status status = target->WaitUntilConnected(); !status.ok()) return status;
  return RuntimeContext(std::move(target));
}

}  // namespace runloop

#include "runloop/client/connect.h"

#include <errno.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/client/session_client.h"
#include "runloop/ipc/address.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/hosted_addresses.h"

namespace runloop {
namespace {

using internal::DispatchTarget;
using internal::InvocationState;
using internal::RemoteInvocation;
using internal::Reply;
using internal::SessionClient;

// How long the last context waits for the daemon to run what was dispatched.
constexpr absl::Duration kCloseTimeout = absl::Seconds(5);
// How long a caller whose deadline has passed waits for the daemon's word that its operation had
// not started.
constexpr absl::Duration kCancelGrace = absl::Milliseconds(500);
constexpr size_t kLongestClientName = 128;

// What the contexts of one Connect share.
class RemoteTarget final : public DispatchTarget {
 public:
  explicit RemoteTarget(std::shared_ptr<SessionClient> client) : client_(std::move(client)) {}
  ~RemoteTarget() override { client_->Close(kCloseTimeout); }

  absl::Status WaitUntilConnected() { return client_->WaitUntilConnected(); }

  std::shared_ptr<InvocationState> Dispatch(Call call) override {
    return client_->Dispatch(std::move(call));
  }

  absl::StatusOr<Reply> DispatchBlocking(Call call) override {
    if (client_->OnClientThread()) {
      return absl::FailedPreconditionError(
          "a Watch callback may not block: it runs on the thread that has to receive the outcome");
    }
    const absl::Duration timeout = call.timeout;
    const std::shared_ptr<RemoteInvocation> invocation = client_->Dispatch(std::move(call));
    absl::StatusOr<Reply> reply = invocation->AwaitReply(timeout);
    if (ReasonOf(reply.status()) != v1::ERROR_REASON_STILL_RUNNING) return reply;
    // The cancel brings an outcome soon if it has not started. Of one that runs the daemon says
    // nothing, and a daemon that is slow to answer looks the same.
    invocation->Cancel();
    reply = invocation->AwaitReply(kCancelGrace);
    switch (ReasonOf(reply.status())) {
      case v1::ERROR_REASON_CANCELLED:
      case v1::ERROR_REASON_EXPIRED:
        return MakeError(
            absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_EXPIRED,
            absl::StrCat("not started after ", absl::FormatDuration(timeout), "; it never runs"));
      case v1::ERROR_REASON_STILL_RUNNING:
        return MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                         absl::StrCat("not finished after ", absl::FormatDuration(timeout),
                                      "; no word from the daemon on whether it started"));
      default:
        return reply;
    }
  }

 private:
  const std::shared_ptr<SessionClient> client_;
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
    return local->AsRuntimeContext(client_name);
  }
  auto target = std::make_shared<RemoteTarget>(
      SessionClient::Start({.address = *std::move(address),
                            .client_name = client_name,
                            .connect_timeout = options.connect_timeout,
                            .max_unfinished_bytes = options.max_unfinished_bytes}));
  if (absl::Status status = target->WaitUntilConnected(); !status.ok()) return status;
  return RuntimeContext(std::move(target));
}

}  // namespace runloop

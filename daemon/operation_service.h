#ifndef RUNLOOP_DAEMON_OPERATION_SERVICE_H_
#define RUNLOOP_DAEMON_OPERATION_SERVICE_H_

#include <grpcpp/generic/async_generic_service.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "runloop/daemon/callers.h"
#include "runloop/daemon/reply_thread.h"
#include "runloop/runtime/core.h"

namespace runloop::daemon {

// How long a call may take: `wanted` from now, or until its RPC's own deadline if that is sooner.
struct CallDeadline {
  absl::Time start_by;           // by the runtime's clock
  bool ends_before_rpc = false;  // the RPC itself would wait for longer

  // Nothing wanted: what the RPC says, or 30 s if it says nothing.
  static CallDeadline Of(const grpc::ServerContextBase& context,
                         std::optional<absl::Duration> wanted, const Clock& clock);
};

// INVALID_ARGUMENT (INVALID_REQUEST): the key is longer than it may be.
absl::Status CheckCoalesceKey(const std::string& key);

// RESOURCE_EXHAUSTED (MESSAGE_TOO_LARGE) for a reply of `size` bytes.
absl::Status ReplyTooLarge(const std::string& operation, size_t size, int64_t limit);

// Serves every registered operation as the gRPC method that it is, and answers any other method
// with UNIMPLEMENTED and a hint. A call without a deadline gets one of 30 s.
//
// Threads: gRPC's, which parse the request, hand it over and return; the reply thread, which
// answers. Must outlive the server that it is registered with.
class OperationService final : public grpc::CallbackGenericService {
 public:
  OperationService(std::shared_ptr<internal::RuntimeCore> core, const Callers& callers,
                   std::shared_ptr<ReplyThread> replies, int64_t max_message_bytes)
      : core_(std::move(core)),
        callers_(callers),
        replies_(std::move(replies)),
        max_message_bytes_(max_message_bytes) {}

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;

 private:
  class Call;

  const std::shared_ptr<internal::RuntimeCore> core_;
  const Callers& callers_;
  const std::shared_ptr<ReplyThread> replies_;
  const int64_t max_message_bytes_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_OPERATION_SERVICE_H_

#ifndef RUNLOOP_DAEMON_OPERATION_SERVICE_H_
#define RUNLOOP_DAEMON_OPERATION_SERVICE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "runloop/daemon/call.h"
#include "runloop/daemon/callers.h"
#include "runloop/runtime/core.h"

namespace runloop::daemon {

// RESOURCE_EXHAUSTED (MESSAGE_TOO_LARGE) for a reply of `size` bytes.
absl::Status ReplyTooLarge(const std::string& operation, size_t size, int64_t limit);

// Serves operations to plain calls: each as the gRPC method that it is, and any by its name
// (Dispatcher.Dispatch). A call without a deadline gets one of 30 s. The completion-queue thread;
// outlives the calls.
class OperationService {
 public:
  OperationService(std::shared_ptr<internal::RuntimeCore> core, const Callers& callers,
                   int64_t max_message_bytes)
      : core_(std::move(core)), callers_(callers), max_message_bytes_(max_message_bytes) {}

  // The operation of the call's own name; another name is answered with UNIMPLEMENTED and a hint.
  std::unique_ptr<CallHandler> NewOperation(Call& call) const;
  std::unique_ptr<CallHandler> NewDispatch(Call& call) const;

 private:
  class OperationCall;
  class DispatchCall;

  const std::shared_ptr<internal::RuntimeCore> core_;
  const Callers& callers_;
  const int64_t max_message_bytes_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_OPERATION_SERVICE_H_

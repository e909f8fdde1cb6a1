#ifndef RUNLOOP_DAEMON_DIAGNOSTICS_SERVICE_H_
#define RUNLOOP_DAEMON_DIAGNOSTICS_SERVICE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runloop/daemon/call.h"
#include "runloop/daemon/callers.h"
#include "runloop/runtime/core.h"
#include "runloop/v1/diagnostics.pb.h"

namespace runloop::daemon {

struct DiagnosticsOptions {
  std::shared_ptr<internal::RuntimeCore> core;
  // Both outlive the service.
  const Callers* callers = nullptr;
  const ConnectionTable* connections = nullptr;
  // Listened on.
  std::vector<std::string> addresses;
  int64_t max_message_bytes = 0;
  int64_t max_unfinished = 0;
};

// runloop.v1.Diagnostics, out of the runtime's snapshot: answers on the completion-queue thread and
// never waits for the runtime thread, so it works while that is stuck. Refuses roles. Outlives the
// calls.
class DiagnosticsService {
 public:
  explicit DiagnosticsService(DiagnosticsOptions options) : options_(std::move(options)) {}

  std::unique_ptr<CallHandler> NewGetStatus(Call& call) const;
  std::unique_ptr<CallHandler> NewListOperations(Call& call) const;

 private:
  void FillStatus(v1::GetStatusResponse& response) const;

  const DiagnosticsOptions options_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_DIAGNOSTICS_SERVICE_H_

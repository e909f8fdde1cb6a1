#ifndef RUNLOOP_DAEMON_SERVICE_NAMES_H_
#define RUNLOOP_DAEMON_SERVICE_NAMES_H_

#include <set>
#include <string>
#include <string_view>

#include "runloop/runtime/operation_registry.h"

namespace runloop::daemon {

inline constexpr std::string_view kDispatcherService = "runloop.v1.Dispatcher";
inline constexpr std::string_view kDiagnosticsService = "runloop.v1.Diagnostics";
inline constexpr std::string_view kNotificationsService = "runloop.v1.Notifications";
inline constexpr std::string_view kControlService = "runloop.v1.Control";
inline constexpr std::string_view kHealthService = "grpc.health.v1.Health";

// The services whose methods are operations, by full name.
inline std::set<std::string, std::less<>> OperationServices(const OperationRegistry& operations) {
  std::set<std::string, std::less<>> names;
  for (const Operation* operation : operations.List()) {
    names.insert(operation->method().service()->full_name());
  }
  return names;
}

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SERVICE_NAMES_H_

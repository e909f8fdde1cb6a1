#ifndef RUNLOOP_DAEMON_REFLECTION_SERVICE_H_
#define RUNLOOP_DAEMON_REFLECTION_SERVICE_H_

#include <memory>
#include <string_view>

#include "runloop/daemon/call.h"
#include "runloop/daemon/callers.h"
#include "runloop/runtime/core.h"

namespace runloop::daemon {

// Server reflection of gRPC, in its versions v1 and v1alpha: lists the services of all operations,
// those of plugins included, and runloop's own, and describes everything that this process has a
// schema of. Roles do not see Diagnostics listed, since they may not call it; schemas are not
// secret.
//
// gRPC's own implementation must not be linked beside these: it lacks version 1, and does not list
// what plugins brought. The completion-queue thread.
inline constexpr std::string_view kReflectionV1Method =
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
inline constexpr std::string_view kReflectionV1AlphaMethod =
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
std::unique_ptr<CallHandler> NewReflectionV1(const internal::RuntimeCore& core,
                                             const Callers& callers, Call& call);
std::unique_ptr<CallHandler> NewReflectionV1Alpha(const internal::RuntimeCore& core,
                                                  const Callers& callers, Call& call);

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_REFLECTION_SERVICE_H_

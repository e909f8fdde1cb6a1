#ifndef RUNLOOP_DAEMON_REFLECTION_SERVICE_H_
#define RUNLOOP_DAEMON_REFLECTION_SERVICE_H_

#include <grpcpp/impl/service_type.h>

#include <memory>

#include "runloop/daemon/callers.h"
#include "runloop/runtime/core.h"

namespace runloop::daemon {

// Server reflection of gRPC, one version of it: lists the services of all operations, those of
// plugins included, and runloop's own, and describes everything that this process has a schema of.
// Roles do not see Diagnostics listed, since they may not call it; schemas are not secret.
//
// gRPC's own implementation must not be linked beside these: it lacks version 1, and does not list
// what plugins brought. Threads: gRPC's. `callers` and the service must outlive the server.
std::unique_ptr<grpc::Service> NewReflectionV1(std::shared_ptr<internal::RuntimeCore> core,
                                               const Callers& callers);
std::unique_ptr<grpc::Service> NewReflectionV1Alpha(std::shared_ptr<internal::RuntimeCore> core,
                                                    const Callers& callers);

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_REFLECTION_SERVICE_H_

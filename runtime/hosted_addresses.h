#ifndef RUNLOOP_RUNTIME_HOSTED_ADDRESSES_H_
#define RUNLOOP_RUNTIME_HOSTED_ADDRESSES_H_

#include <optional>
#include <string>
#include <string_view>

#include "runloop/runtime/local_context.h"

namespace runloop {

// The addresses that this process itself serves: what lets Connect hand out the in-process path
// instead of a socket to itself. The one process-wide table of the project, since a host and the
// code that connects know nothing of each other. Any thread.

// From now on Connect(address) in this process reaches `context`. The latest one wins.
void AddHostedAddress(std::string address, LocalRuntimeContext context);
void RemoveHostedAddress(std::string_view address);
std::optional<LocalRuntimeContext> FindHostedAddress(std::string_view address);

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_HOSTED_ADDRESSES_H_

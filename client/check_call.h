#ifndef RUNLOOP_CLIENT_CHECK_CALL_H_
#define RUNLOOP_CLIENT_CHECK_CALL_H_

#include "absl/status/status.h"
#include "runloop/runtime/runtime_context.h"

namespace runloop::internal {

// What can be said against a call before anything is sent.
//
// UNIMPLEMENTED (UNKNOWN_OPERATION): not a name. INVALID_ARGUMENT (INVALID_REQUEST): the request is
// of another type, if the operation's generated code is linked in here, or lacks required fields,
// or the coalesce_key is too long or not UTF-8. DEADLINE_EXCEEDED (EXPIRED): no time is left.
absl::Status CheckCall(const DispatchTarget::Call& call);

// DEADLINE_EXCEEDED (EXPIRED).
absl::Status Expired();

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_CHECK_CALL_H_

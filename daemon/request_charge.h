#ifndef RUNLOOP_DAEMON_REQUEST_CHARGE_H_
#define RUNLOOP_DAEMON_REQUEST_CHARGE_H_

#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <string_view>

#include "absl/status/statusor.h"
#include "google/protobuf/descriptor.h"
#include "runloop/runtime/bounds.h"

namespace runloop::daemon {

// What a request of `type` counts for against the bounds, to be asked before it is parsed: as much
// as it has bytes; or, if it would take more than four times as many in memory, a quarter of that.
//
// RESOURCE_EXHAUSTED (MESSAGE_TOO_LARGE): it can never fit. INVALID_ARGUMENT (INVALID_REQUEST): it
// is malformed.
absl::StatusOr<size_t> ChargeOf(std::string_view bytes, const google::protobuf::Descriptor& type,
                                const WorkBounds& bounds);
absl::StatusOr<size_t> ChargeOf(const grpc::ByteBuffer& bytes,
                                const google::protobuf::Descriptor& type, const WorkBounds& bounds);

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_REQUEST_CHARGE_H_

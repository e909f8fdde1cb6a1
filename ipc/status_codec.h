#ifndef RUNLOOP_IPC_STATUS_CODEC_H_
#define RUNLOOP_IPC_STATUS_CODEC_H_

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace runloop {

// A status as an RPC ends with it: the code, the message, and in `error_details` a serialized
// google.rpc.Status that carries the payloads, so that the reason of an error reaches every gRPC
// client. What travels in trailing metadata has to be small (8 KiB in all): a message above 1 KiB
// is cut, payloads that do not fit are left out.
grpc::Status ToGrpcStatus(const absl::Status& status);

// The way back. `status` is a peer's claim: details that do not parse or contradict the code are
// ignored, and so are those of an OK status.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace runloop

#endif  // RUNLOOP_IPC_STATUS_CODEC_H_

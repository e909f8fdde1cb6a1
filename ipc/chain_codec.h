#ifndef RUNLOOP_IPC_CHAIN_CODEC_H_
#define RUNLOOP_IPC_CHAIN_CODEC_H_

#include "absl/status/statusor.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "runloop/runtime/wait_chain.h"
#include "runloop/v1/session.pb.h"

namespace runloop {

// A chain as a message field, and back. What comes from a peer is a claim, bounded in length:
// INVALID_ARGUMENT (INVALID_REQUEST).
void WriteChain(const internal::Chain& chain,
                google::protobuf::RepeatedPtrField<v1::ChainLink>& links);
absl::StatusOr<internal::Chain> ReadChain(
    const google::protobuf::RepeatedPtrField<v1::ChainLink>& links);

}  // namespace runloop

#endif  // RUNLOOP_IPC_CHAIN_CODEC_H_

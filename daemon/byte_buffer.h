#ifndef RUNLOOP_DAEMON_BYTE_BUFFER_H_
#define RUNLOOP_DAEMON_BYTE_BUFFER_H_

#include <grpcpp/support/byte_buffer.h>

#include "google/protobuf/message.h"

namespace runloop::daemon {

// Messages as gRPC carries them. Parse uses the bytes up, which come from a peer: false if they are
// no valid message of this type.
bool ParseBytes(grpc::ByteBuffer& bytes, google::protobuf::Message& message);

// `message` has less than 2 GiB.
grpc::ByteBuffer SerializeToBytes(const google::protobuf::Message& message);

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_BYTE_BUFFER_H_

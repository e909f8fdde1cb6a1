#include "runloop/daemon/byte_buffer.h"

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>

namespace runloop::daemon {

bool ParseBytes(grpc::ByteBuffer& bytes, google::protobuf::Message& message) {
  bool parsed;
  {
    grpc::ProtoBufferReader reader(&bytes);
    parsed = reader.status().ok() && message.ParseFromZeroCopyStream(&reader);
  }
  bytes.Clear();
  return parsed;
}

grpc::ByteBuffer SerializeToBytes(const google::protobuf::Message& message) {
  grpc::ByteBuffer bytes;
  bool owned = true;
  // Fails only for a message of more than 2 GiB.
  (void)grpc::GenericSerialize<grpc::ProtoBufferWriter, google::protobuf::Message>(message, &bytes,
                                                                                   &owned);
  return bytes;
}

}  // namespace runloop::daemon

#ifndef RUNLOOP_DAEMON_SESSION_REQUEST_PARSER_H_
#define RUNLOOP_DAEMON_SESSION_REQUEST_PARSER_H_

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>

#include "absl/status/status.h"
#include "runloop/v1/session.pb.h"

namespace runloop::daemon {

// PROTOCOL_VIOLATION, which ends the stream.
absl::Status Violation(absl::string_view what);

// Parses a message of a session stream that a peer sent, and checks how much it holds: before the
// parser sees it, since a few bytes may stand for an item that takes a hundred in memory.
//
// Of each kind of item it may hold twice `max_unfinished`, and 1024 in any case; of messages inside
// it, unknown fields and offered transports (message_items.h), four times as many. An error is a
// violation, and `request` is of no use then.
absl::Status ParseSessionRequest(grpc::ByteBuffer& bytes, int64_t max_unfinished,
                                 v1::SessionRequest& request);

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SESSION_REQUEST_PARSER_H_

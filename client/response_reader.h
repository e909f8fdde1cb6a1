#ifndef RUNLOOP_CLIENT_RESPONSE_READER_H_
#define RUNLOOP_CLIENT_RESPONSE_READER_H_

#include <string_view>

#include "runloop/v1/session.pb.h"

namespace runloop::internal {

// If `bytes` are a v1.SessionResponse of one outcome with a reply and nothing else, which is what a
// blocking call is answered with, reads it into `message`, which nothing else is read into. False:
// they are for the parser, be they valid or not. Where it says true the parser would have read the
// same.
bool ReadLoneReply(std::string_view bytes, v1::SessionResponse& message);

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_RESPONSE_READER_H_

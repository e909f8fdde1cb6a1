#ifndef RUNLOOP_IPC_PRIORITY_CODEC_H_
#define RUNLOOP_IPC_PRIORITY_CODEC_H_

#include "runloop/runtime/priority.h"
#include "runloop/v1/session.pb.h"

namespace runloop {

inline v1::Priority ToProto(Priority priority) {
  switch (priority) {
    case Priority::kInteractive:
      return v1::PRIORITY_INTERACTIVE;
    case Priority::kDefault:
      return v1::PRIORITY_DEFAULT;
    case Priority::kBackground:
      return v1::PRIORITY_BACKGROUND;
  }
  return v1::PRIORITY_UNSPECIFIED;
}

// What is not known is the default one: a peer may be newer.
inline Priority FromProto(v1::Priority priority) {
  switch (priority) {
    case v1::PRIORITY_INTERACTIVE:
      return Priority::kInteractive;
    case v1::PRIORITY_BACKGROUND:
      return Priority::kBackground;
    default:
      return Priority::kDefault;
  }
}

}  // namespace runloop

#endif  // RUNLOOP_IPC_PRIORITY_CODEC_H_

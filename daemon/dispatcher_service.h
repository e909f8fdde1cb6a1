#ifndef RUNLOOP_DAEMON_DISPATCHER_SERVICE_H_
#define RUNLOOP_DAEMON_DISPATCHER_SERVICE_H_

#include <cstdint>
#include <memory>

#include "runloop/daemon/callers.h"
#include "runloop/daemon/reply_thread.h"
#include "runloop/runtime/core.h"
#include "runloop/v1/dispatcher.grpc.pb.h"

namespace runloop::daemon {

// runloop.v1.Dispatcher: Dispatch is served here, by gRPC's threads and the reply thread, as bytes,
// which are counted before they are parsed; Session by SessionServer's completion-queue thread, as
// bytes, too, so that a message that does not parse is told from the end of the stream. Must
// outlive the server that it is registered with.
class DispatcherService final
    : public v1::Dispatcher::WithRawMethod_Session<
          v1::Dispatcher::WithRawCallbackMethod_Dispatch<v1::Dispatcher::Service>> {
 public:
  DispatcherService(std::shared_ptr<internal::RuntimeCore> core, const Callers& callers,
                    std::shared_ptr<ReplyThread> replies, int64_t max_message_bytes)
      : core_(std::move(core)),
        callers_(callers),
        replies_(std::move(replies)),
        max_message_bytes_(max_message_bytes) {}

  using Service::Dispatch;
  grpc::ServerUnaryReactor* Dispatch(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;

 private:
  class Call;

  const std::shared_ptr<internal::RuntimeCore> core_;
  const Callers& callers_;
  const std::shared_ptr<ReplyThread> replies_;
  const int64_t max_message_bytes_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_DISPATCHER_SERVICE_H_

#ifndef RUNLOOP_DAEMON_REQUEST_CALL_H_
#define RUNLOOP_DAEMON_REQUEST_CALL_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "runloop/daemon/byte_buffer.h"
#include "runloop/daemon/call.h"

namespace runloop::daemon {

// An RPC that begins with one small request of the daemon's own services. What is larger than
// `kMaxRequestBytes` is INVALID_ARGUMENT and is not parsed.
template <typename Request, size_t kMaxRequestBytes = 1024>
class RequestCall : public CallHandler {
 public:
  void Start() final { call_.Read(); }

  void OnRead(grpc::ByteBuffer* bytes) final {
    if (bytes == nullptr) {
      call_.Finish(absl::InvalidArgumentError("the call ended without a request"));
      return;
    }
    Request request;
    if (bytes->Length() > kMaxRequestBytes) {
      bytes->Clear();
      call_.Finish(absl::InvalidArgumentError("the request is too long to name anything"));
    } else if (!ParseBytes(*bytes, request)) {
      call_.Finish(absl::InvalidArgumentError("the message is no valid " + request.GetTypeName()));
    } else {
      OnRequest(request);
    }
  }

  void OnWritten(bool) override {}
  void OnGone() override {}

 protected:
  explicit RequestCall(Call& call) : call_(call) {}

  virtual void OnRequest(const Request& request) = 0;
  Call& call() { return call_; }

 private:
  Call& call_;
};

// Serves an RPC whose answer is known at once: `method(call, request, response)` gives its status.
template <typename Request, typename Response>
std::unique_ptr<CallHandler> NewRequestCall(
    Call& call, std::function<absl::Status(Call&, const Request&, Response&)> method) {
  class Handler final : public RequestCall<Request> {
   public:
    Handler(Call& call, std::function<absl::Status(Call&, const Request&, Response&)> method)
        : RequestCall<Request>(call), method_(std::move(method)) {}

   private:
    void OnRequest(const Request& request) override {
      Response response;
      const absl::Status status = method_(this->call(), request, response);
      if (status.ok()) {
        this->call().WriteAndFinish(SerializeToBytes(response));
      } else {
        this->call().Finish(status);
      }
    }

    const std::function<absl::Status(Call&, const Request&, Response&)> method_;
  };
  return std::make_unique<Handler>(call, std::move(method));
}

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_REQUEST_CALL_H_

#ifndef RUNLOOP_DAEMON_CALL_H_
#define RUNLOOP_DAEMON_CALL_H_

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/support/byte_buffer.h>

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "runloop/daemon/completion_thread.h"

namespace runloop::daemon {

// What serves one RPC. Owned by its Call, which tells it what happens; on the completion-queue
// thread only, as everything here.
class CallHandler {
 public:
  virtual ~CallHandler() = default;

  // The RPC has begun.
  virtual void Start() = 0;
  // What Call::Read asked for. Null: the peer sends no more, or has gone.
  virtual void OnRead(grpc::ByteBuffer* bytes) = 0;
  // What Call::Write began is over. If not `ok`, the peer has gone.
  virtual void OnWritten(bool ok) = 0;
  // The peer has gone, or has cancelled, before it knew how the RPC ended. Comes once at most, also
  // after Finish; what is begun from then on does nothing.
  virtual void OnGone() = 0;
};

// One RPC of any method, whose messages are bytes, from waiting for its peer to its end. Deletes
// itself, and its handler, when gRPC is done with it.
class Call {
 public:
  // Makes the handler of an RPC by its method: `call.method()`.
  using Route = std::function<std::unique_ptr<CallHandler>(Call& call)>;

  // Serves the next RPC that comes to `service`, and then the ones after it, until its server is
  // shut down. All must outlive the server.
  static void Accept(CompletionThread& completion, grpc::AsyncGenericService& service,
                     const Route& route);

  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const grpc::GenericServerContext& context() const { return context_; }
  // `package.Service/Method`.
  std::string_view method() const;
  CompletionThread& completion() const { return completion_; }
  // OnGone has come, or is to come.
  bool gone() const { return gone_; }

  // One read and one write may be outstanding.
  void Read();
  void Write(const grpc::ByteBuffer& bytes);
  // Writes the headers, which else come with the first message.
  void SendHeaders();
  // The last thing, once nothing is being written.
  void Finish(const absl::Status& status);
  void WriteAndFinish(const grpc::ByteBuffer& bytes);

 private:
  class Tag final : public CompletionTag {
   public:
    Tag(Call& call, void (Call::*handler)(bool)) : call_(call), handler_(handler) {}
    void Complete(bool ok) override;
    // Counts one more operation that is outstanding.
    void* Start() {
      ++call_.outstanding_;
      return static_cast<CompletionTag*>(this);
    }

   private:
    Call& call_;
    void (Call::*const handler_)(bool);
  };

  Call(CompletionThread& completion, grpc::AsyncGenericService& service, const Route& route);

  void OnAccepted(bool ok);
  void OnRead(bool ok);
  void OnWritten(bool ok) { handler_->OnWritten(ok); }
  void OnFinished(bool) {}
  void OnDone(bool);
  // True if nothing may be begun any more.
  bool closed() const { return gone_ || finishing_ || completion_.stopping(); }

  CompletionThread& completion_;
  grpc::AsyncGenericService& service_;
  const Route& route_;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter stream_;
  grpc::ByteBuffer incoming_;

  Tag accepted_{*this, &Call::OnAccepted};
  Tag read_{*this, &Call::OnRead};
  Tag written_{*this, &Call::OnWritten};
  Tag finished_{*this, &Call::OnFinished};
  Tag done_{*this, &Call::OnDone};
  int outstanding_ = 0;
  bool gone_ = false;
  bool finishing_ = false;

  std::unique_ptr<CallHandler> handler_;  // once accepted; the first to be destroyed
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_CALL_H_

#include "runloop/daemon/call.h"

#include <utility>

#include "runloop/ipc/status_codec.h"

namespace runloop::daemon {

void Call::Accept(CompletionThread& completion, grpc::AsyncGenericService& service,
                  const Route& route) {
  if (!completion.stopping()) new Call(completion, service, route);
}

Call::Call(CompletionThread& completion, grpc::AsyncGenericService& service, const Route& route)
    : completion_(completion), service_(service), route_(route), stream_(&context_) {
  // This tag comes only if a peer comes; OnAccepted counts it.
  context_.AsyncNotifyWhenDone(static_cast<CompletionTag*>(&done_));
  service_.RequestCall(&context_, &stream_, completion_.queue(), completion_.queue(),
                       accepted_.Start());
}

std::string_view Call::method() const {
  std::string_view name = context_.method();
  if (name.substr(0, 1) == "/") name.remove_prefix(1);
  return name;
}

void Call::Tag::Complete(bool ok) {
  Call& call = call_;
  --call.outstanding_;
  (call.*handler_)(ok);
  if (call.outstanding_ == 0) delete &call;
}

void Call::OnAccepted(bool ok) {
  if (!ok) return;  // the server is shutting down
  (void)done_.Start();
  Accept(completion_, service_, route_);
  handler_ = route_(*this);
  handler_->Start();
}

// What was on its way when the peer went is not acted upon.
void Call::OnRead(bool ok) { handler_->OnRead(ok && !gone_ ? &incoming_ : nullptr); }

void Call::OnDone(bool) {
  if (!context_.IsCancelled()) return;  // finished
  gone_ = true;
  handler_->OnGone();
}

void Call::Read() {
  if (!closed()) stream_.Read(&incoming_, read_.Start());
}

void Call::Write(const grpc::ByteBuffer& bytes) {
  if (!closed()) stream_.Write(bytes, written_.Start());
}

void Call::SendHeaders() {
  if (!closed()) stream_.SendInitialMetadata(written_.Start());
}

void Call::Finish(const absl::Status& status) {
  if (closed()) return;
  finishing_ = true;
  stream_.Finish(ToGrpcStatus(status), finished_.Start());
}

void Call::WriteAndFinish(const grpc::ByteBuffer& bytes) {
  if (closed()) return;
  finishing_ = true;
  stream_.WriteAndFinish(bytes, grpc::WriteOptions(), grpc::Status::OK, finished_.Start());
}

}  // namespace runloop::daemon

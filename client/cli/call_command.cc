#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"
#include "runloop/client/cli/commands.h"
#include "runloop/client/cli/schema.h"
#include "runloop/runtime/error.h"

namespace runloop::cli {
namespace {

// The daemon answered before the call: what ended it came after it was sent.
absl::Status AfterSending(absl::Status status) {
  if (ReasonOf(status) != v1::ERROR_REASON_NOT_CONNECTED) return status;
  return MakeError(absl::StatusCode::kUnknown, v1::ERROR_REASON_SESSION_LOST,
                   "the connection was lost: the daemon has ended or closed it, and the operation "
                   "may or may not have run");
}

absl::StatusOr<std::string> CallMethod(const Daemon& daemon, const std::string& method,
                                       const std::string& request) {
  grpc::ClientContext context;
  daemon.Prepare(context);
  const grpc::Slice slice(request);
  const grpc::ByteBuffer bytes(&slice, 1);
  grpc::CompletionQueue queue;
  const auto call =
      grpc::GenericStub(daemon.channel()).PrepareUnaryCall(&context, method, bytes, &queue);
  call->StartCall();
  grpc::ByteBuffer reply;
  grpc::Status status;
  call->Finish(&reply, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  if (absl::Status result = AfterSending(daemon.Check(status)); !result.ok()) return result;
  std::vector<grpc::Slice> slices;
  if (!reply.Dump(&slices).ok()) return absl::InternalError("the reply cannot be read");
  std::string all;
  for (const grpc::Slice& part : slices) {
    all.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  return all;
}

absl::StatusOr<std::string> Call(const Daemon& daemon, const CallOptions& options) {
  absl::StatusOr<Schema> schema = Schema::Fetch(daemon, options.method);
  if (!schema.ok()) return schema.status();
  std::string json = options.request;
  if (json == "-") {
    json.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }
  absl::StatusOr<std::string> request = schema->RequestFromJson(json);
  if (!request.ok()) return request.status();
  absl::StatusOr<std::string> reply =
      CallMethod(daemon, absl::StrCat("/", schema->name()), *request);
  if (!reply.ok()) {
    absl::Status status(reply.status().code(),
                        absl::StrCat(schema->name(), ": ", std::string(reply.status().message())));
    reply.status().ForEachPayload([&status](absl::string_view url, const absl::Cord& payload) {
      status.SetPayload(url, payload);
    });
    return status;
  }
  return schema->ReplyToJson(*reply);
}

}  // namespace

int RunCall(const GlobalOptions& global, const CallOptions& options) {
  absl::StatusOr<Daemon> daemon = Daemon::Open(global);
  if (!daemon.ok()) return Fail(daemon.status());
  absl::StatusOr<std::string> reply = Call(*daemon, options);
  if (!reply.ok()) return Fail(reply.status());
  std::fputs(reply->c_str(), stdout);
  return kOk;
}

}  // namespace runloop::cli

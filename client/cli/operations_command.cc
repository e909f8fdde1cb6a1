#include <cstdio>

#include "runloop/client/cli/commands.h"
#include "runloop/client/cli/schema.h"
#include "runloop/client/cli/status_text.h"
#include "runloop/v1/diagnostics.grpc.pb.h"

namespace runloop::cli {
namespace {

absl::Status List(const Daemon& daemon, bool json) {
  grpc::ClientContext context;
  daemon.Prepare(context);
  v1::ListOperationsResponse response;
  const absl::Status status = daemon.Check(
      v1::Diagnostics::NewStub(daemon.channel())->ListOperations(&context, {}, &response));
  if (!status.ok()) return status;
  if (json) return PrintJson(response);
  std::fputs(OperationsText(response).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status Describe(const Daemon& daemon, const std::string& name, bool json) {
  absl::StatusOr<Schema> schema = Schema::Fetch(daemon, name);
  if (!schema.ok()) return schema.status();
  if (json) return PrintJson(schema->files());
  std::fputs(schema->ToProtoText().c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

int RunOperations(const GlobalOptions& global, const OperationsOptions& options) {
  absl::StatusOr<Daemon> daemon = Daemon::Open(global);
  if (!daemon.ok()) return Fail(daemon.status());
  const absl::Status status = options.describe.empty()
                                  ? List(*daemon, global.json)
                                  : Describe(*daemon, options.describe, global.json);
  return status.ok() ? kOk : Fail(status);
}

}  // namespace runloop::cli

#include <cstdio>

#include "absl/time/clock.h"
#include "runloop/client/cli/commands.h"
#include "runloop/client/cli/status_text.h"
#include "runloop/v1/diagnostics.grpc.pb.h"

namespace runloop::cli {

int RunStatus(const GlobalOptions& global) {
  absl::StatusOr<Daemon> daemon = Daemon::Open(global);
  if (!daemon.ok()) return Fail(daemon.status());
  grpc::ClientContext context;
  daemon->Prepare(context);
  v1::GetStatusResponse response;
  absl::Status status = daemon->Check(
      v1::Diagnostics::NewStub(daemon->channel())->GetStatus(&context, {}, &response));
  if (status.ok() && global.json) {
    status = PrintJson(response);
  } else if (status.ok()) {
    std::fputs(StatusText(response, absl::Now()).c_str(), stdout);
  }
  return status.ok() ? kOk : Fail(status);
}

}  // namespace runloop::cli

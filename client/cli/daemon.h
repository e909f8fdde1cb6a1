#ifndef RUNLOOP_CLIENT_CLI_DAEMON_H_
#define RUNLOOP_CLIENT_CLI_DAEMON_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "runloop/ipc/address.h"

namespace runloop::cli {

// What runloopctl ends with.
enum ExitCode : int {
  kOk = 0,
  kFailed = 1,       // the call failed
  kUsage = 2,        // the command line makes no sense
  kNoDaemon = 69,    // nobody to ask (EX_UNAVAILABLE)
  kCannotRun = 126,  // `run`: the command is there and cannot be executed
  kNoCommand = 127,  // `run`: no such command
};

// What stands before every command.
struct GlobalOptions {
  std::string address;  // empty: the default
  bool json = false;
  absl::Duration timeout = absl::Seconds(10);
};

absl::StatusOr<Address> DaemonAddress(const GlobalOptions& options);

// One connection to the daemon, for calls one after the other.
class Daemon {
 public:
  static absl::StatusOr<Daemon> Open(const GlobalOptions& options);

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // Gives a call its deadline.
  void Prepare(grpc::ClientContext& context) const;

  // The status of a call, with a message for people where gRPC's own says little.
  absl::Status Check(const grpc::Status& status) const;

 private:
  Daemon(Address address, std::shared_ptr<grpc::Channel> channel, absl::Duration timeout);

  Address address_;
  std::shared_ptr<grpc::Channel> channel_;
  absl::Duration timeout_;
};

// Writes `runloopctl: message [CODE, REASON]` to stderr, as one line, and returns the exit code
// that goes with it.
int Fail(const absl::Status& status);

// From now on Fail writes a JSON object instead, in one line: `code`, `message`, and `reason` where
// there is one (error_reason.proto).
void PrintErrorsAsJson(bool as_json);

// A usage error: INVALID_ARGUMENT that Fail turns into kUsage.
absl::Status UsageError(const std::string& message);

// Prints `message` as JSON to stdout, with every field.
absl::Status PrintJson(const google::protobuf::Message& message);

}  // namespace runloop::cli

#endif  // RUNLOOP_CLIENT_CLI_DAEMON_H_

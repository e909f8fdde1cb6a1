#include "runloop/client/cli/daemon.h"

#include <cstdio>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "google/protobuf/struct.pb.h"
#include "google/protobuf/util/json_util.h"
#include "runloop/client/cli/text.h"
#include "runloop/client/daemon_channel.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/error.h"

namespace runloop::cli {
namespace {

// Marks a status as the fault of the command line.
constexpr char kUsageMark[] = "runloopctl/usage";

bool errors_as_json = false;

std::string NameOf(v1::ErrorReason reason) {
  return v1::ErrorReason_Name(reason).substr(sizeof("ERROR_REASON_") - 1);
}

std::string ErrorText(const absl::Status& status, bool usage) {
  const v1::ErrorReason reason = ReasonOf(status);
  std::string line = absl::StrCat("runloopctl: ", std::string(status.message()));
  if (usage || reason == v1::ERROR_REASON_NOT_CONNECTED) return line;
  absl::StrAppend(&line, " [", absl::StatusCodeToString(status.code()));
  if (reason != v1::ERROR_REASON_UNSPECIFIED) absl::StrAppend(&line, ", ", NameOf(reason));
  return absl::StrCat(line, "]");
}

std::string ErrorJson(const absl::Status& status) {
  google::protobuf::Struct error;
  auto& fields = *error.mutable_fields();
  fields["code"].set_string_value(absl::StatusCodeToString(status.code()));
  fields["message"].set_string_value(Printable(std::string(status.message())));
  if (const v1::ErrorReason reason = ReasonOf(status); reason != v1::ERROR_REASON_UNSPECIFIED) {
    fields["reason"].set_string_value(NameOf(reason));
  }
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(error, &json).ok()) return "{}";
  return json;
}

}  // namespace

absl::StatusOr<Address> DaemonAddress(const GlobalOptions& options) {
  return options.address.empty() ? DefaultAddress() : ParseAddress(options.address);
}

absl::StatusOr<Daemon> Daemon::Open(const GlobalOptions& options) {
  absl::StatusOr<Address> address = DaemonAddress(options);
  if (!address.ok()) return UsageError(std::string(address.status().message()));
  absl::StatusOr<internal::DaemonChannel> channel = internal::OpenDaemonChannel(*address);
  if (!channel.ok()) return channel.status();
  return Daemon(*std::move(address), std::move(channel->channel), options.timeout);
}

Daemon::Daemon(Address address, std::shared_ptr<grpc::Channel> channel, absl::Duration timeout)
    : address_(std::move(address)), channel_(std::move(channel)), timeout_(timeout) {}

void Daemon::Prepare(grpc::ClientContext& context) const {
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout_));  // `inf`: none
}

absl::Status Daemon::Check(const grpc::Status& status) const {
  absl::Status result = FromGrpcStatus(status);
  if (ReasonOf(result) != v1::ERROR_REASON_UNSPECIFIED) return result;
  switch (result.code()) {
    case absl::StatusCode::kUnavailable:
      return internal::NotConnected(absl::StrCat(
          "the daemon at ", address_.ToString(),
          " closed the connection: it is ending or died, serves only processes of its own user, or "
          "has no room for one more; its log says which. What had reached it may have run"));
    case absl::StatusCode::kDeadlineExceeded:
      return absl::DeadlineExceededError(absl::StrCat("no answer from ", address_.ToString(),
                                                      " within ", absl::FormatDuration(timeout_),
                                                      ": what was asked for may go on; give it a "
                                                      "longer --timeout"));
    default:
      return result;
  }
}

absl::Status UsageError(const std::string& message) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kUsageMark, absl::Cord());
  return status;
}

void PrintErrorsAsJson(bool as_json) { errors_as_json = as_json; }

int Fail(const absl::Status& status) {
  const bool usage = status.GetPayload(kUsageMark).has_value();
  const v1::ErrorReason reason = ReasonOf(status);
  const std::string line = errors_as_json ? ErrorJson(status) : ErrorText(status, usage);
  std::fputs((Printable(line) + "\n").c_str(), stderr);
  if (usage) return kUsage;
  return reason == v1::ERROR_REASON_NOT_CONNECTED ? kNoDaemon : kFailed;
}

absl::Status PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (!status.ok()) return absl::InternalError("the response cannot be written as JSON");
  std::fputs(json.c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace runloop::cli

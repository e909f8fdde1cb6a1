#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/type_resolver_util.h"
#include "runloop/client/cli/commands.h"
#include "runloop/client/cli/reflection_client.h"
#include "runloop/client/cli/text.h"
#include "runloop/client/printable.h"
#include "runloop/v1/notifications.grpc.pb.h"

namespace runloop::cli {
namespace {

constexpr char kTypeUrl[] = "type.googleapis.com";

// Makes JSON of messages of types that only the daemon has linked in.
class JsonPrinter {
 public:
  explicit JsonPrinter(const Daemon& daemon) : reflection_(daemon) {}

  // `type` is a full name.
  absl::StatusOr<std::string> Print(const std::string& type, const std::string& bytes) {
    if (absl::Status status = Fetch(type); !status.ok()) return status;
    std::string json;
    const auto status = google::protobuf::util::BinaryToJsonString(
        resolver_.get(), absl::StrCat(kTypeUrl, "/", type), bytes, &json);
    if (!status.ok()) {
      return absl::InternalError(absl::StrCat("what came is no ", type, " that can be shown"));
    }
    return json;
  }

  // So that an Any with one of this type can be printed.
  absl::Status Fetch(const std::string& type) {
    if (pool_.FindMessageTypeByName(type) != nullptr) return absl::OkStatus();
    absl::StatusOr<google::protobuf::FileDescriptorSet> files = reflection_.FilesOf(type);
    if (!files.ok()) return files.status();
    for (const google::protobuf::FileDescriptorProto& file : files->file()) {
      if (pool_.FindFileByName(file.name()) == nullptr && pool_.BuildFile(file) == nullptr) {
        return absl::InternalError(absl::StrCat("the daemon's ", file.name(), " makes no sense"));
      }
    }
    return absl::OkStatus();
  }

 private:
  ReflectionClient reflection_;
  google::protobuf::DescriptorPool pool_;
  const std::unique_ptr<google::protobuf::util::TypeResolver> resolver_{
      google::protobuf::util::NewTypeResolverForDescriptorPool(kTypeUrl, &pool_)};
};

absl::Status List(const Daemon& daemon, bool json) {
  grpc::ClientContext context;
  daemon.Prepare(context);
  v1::ListTopicsResponse response;
  const absl::Status status = daemon.Check(
      v1::Notifications::NewStub(daemon.channel())->ListTopics(&context, {}, &response));
  if (!status.ok()) return status;
  if (json) return PrintJson(response);
  if (response.topics().empty()) {
    std::fputs("no topics\n", stdout);
    return absl::OkStatus();
  }
  Table table({"TOPIC", "MESSAGE", "KEEPS"});
  for (const v1::Topic& topic : response.topics()) {
    table.Add({Printable(topic.name()), Printable(topic.message_type()),
               topic.latest() ? "the newest" : "all"});
  }
  std::fputs(table.ToString().c_str(), stdout);
  return absl::OkStatus();
}

absl::Status PrintOne(JsonPrinter& printer, const v1::SubscribeResponse& notification,
                      bool as_json) {
  const std::string& url = notification.message().type_url();
  const std::string type = url.substr(url.rfind('/') + 1);
  absl::StatusOr<std::string> line;
  if (as_json) {
    if (absl::Status status = printer.Fetch(type); !status.ok()) return status;
    line = printer.Print(notification.GetTypeName(), notification.SerializeAsString());
  } else {
    line = printer.Print(type, notification.message().value());
    if (line.ok()) line = absl::StrCat(Printable(notification.topic()), " ", *line);
    if (notification.dropped() > 0) {
      std::fprintf(stderr, "runloopctl: %llu of %s were dropped, since this was slow\n",
                   static_cast<unsigned long long>(notification.dropped()),
                   Printable(notification.topic()).c_str());
    }
  }
  if (!line.ok()) return line.status();
  std::printf("%s\n", line->c_str());
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status Watch(const Daemon& daemon, const WatchOptions& options, bool as_json) {
  JsonPrinter printer(daemon);
  v1::SubscribeRequest request;
  for (const std::string& topic : options.topics) request.add_topics(topic);
  grpc::ClientContext context;  // without a deadline
  const auto stream = v1::Notifications::NewStub(daemon.channel())->Subscribe(&context, request);
  stream->WaitForInitialMetadata();
  v1::SubscribeResponse notification;
  absl::Status printed;
  while (printed.ok() && stream->Read(&notification)) {
    printed = PrintOne(printer, notification, as_json);
  }
  if (!printed.ok()) context.TryCancel();
  const absl::Status ended = daemon.Check(stream->Finish());
  return printed.ok() ? ended : printed;
}

}  // namespace

int RunWatch(const GlobalOptions& global, const WatchOptions& options) {
  absl::StatusOr<Daemon> daemon = Daemon::Open(global);
  if (!daemon.ok()) return Fail(daemon.status());
  const absl::Status status =
      options.topics.empty() ? List(*daemon, global.json) : Watch(*daemon, options, global.json);
  return status.ok() ? kOk : Fail(status);
}

}  // namespace runloop::cli

#ifndef RUNLOOP_CLIENT_CLI_REFLECTION_CLIENT_H_
#define RUNLOOP_CLIENT_CLI_REFLECTION_CLIENT_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/descriptor.pb.h"
#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "runloop/client/cli/daemon.h"

namespace runloop::cli {

// Asks the daemon's reflection service, over one stream. Not thread-safe; `daemon` must outlive it.
class ReflectionClient {
 public:
  explicit ReflectionClient(const Daemon& daemon);
  ~ReflectionClient();
  ReflectionClient(const ReflectionClient&) = delete;
  ReflectionClient& operator=(const ReflectionClient&) = delete;

  // Full names, all of them.
  absl::StatusOr<std::vector<std::string>> ListServices();

  // The file that defines `symbol` and, before it, all that it imports. NOT_FOUND: there is no such
  // symbol.
  absl::StatusOr<google::protobuf::FileDescriptorSet> FilesOf(const std::string& symbol);

 private:
  using Request = grpc::reflection::v1::ServerReflectionRequest;
  using Response = grpc::reflection::v1::ServerReflectionResponse;

  absl::StatusOr<Response> Ask(const Request& request);
  // Asks for files, and keeps those that came. Returns the name of the first.
  absl::StatusOr<std::string> FetchFiles(const Request& request);
  // Appends `name` after its imports, fetching what is missing.
  absl::Status AppendFile(const std::string& name, google::protobuf::FileDescriptorSet& files,
                          std::map<std::string, bool>& appended);

  const Daemon& daemon_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::reflection::v1::ServerReflection::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<Request, Response>> stream_;
  bool finished_ = false;  // the stream's status was taken
  std::map<std::string, google::protobuf::FileDescriptorProto> files_;
};

}  // namespace runloop::cli

#endif  // RUNLOOP_CLIENT_CLI_REFLECTION_CLIENT_H_

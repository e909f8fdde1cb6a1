#ifndef RUNLOOP_CLIENT_CLI_SCHEMA_H_
#define RUNLOOP_CLIENT_CLI_SCHEMA_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "runloop/client/cli/daemon.h"

namespace runloop::cli {

// The types of one operation, as the daemon's reflection describes them: nothing of it is linked
// in.
class Schema {
 public:
  // `name` is `package.Service/Method` or `package.Service.Method`.
  //
  // UNIMPLEMENTED (UNKNOWN_OPERATION): the daemon lists no such method; the message names near
  // ones. FAILED_PRECONDITION: it streams.
  static absl::StatusOr<Schema> Fetch(const Daemon& daemon, const std::string& name);

  const google::protobuf::MethodDescriptor& method() const { return *method_; }
  // `package.Service/Method`.
  std::string name() const;

  // The bytes of the request that `json` describes. INVALID_ARGUMENT says what is wrong with it.
  absl::StatusOr<std::string> RequestFromJson(const std::string& json) const;
  absl::StatusOr<std::string> ReplyToJson(const std::string& bytes) const;

  // The method and every message and enum that it needs, as .proto text.
  std::string ToProtoText() const;
  // The same as descriptors, dependencies first.
  const google::protobuf::FileDescriptorSet& files() const { return files_; }

 private:
  Schema() = default;

  std::unique_ptr<google::protobuf::DescriptorPool> pool_;
  google::protobuf::FileDescriptorSet files_;
  const google::protobuf::MethodDescriptor* method_ = nullptr;
};

}  // namespace runloop::cli

#endif  // RUNLOOP_CLIENT_CLI_SCHEMA_H_

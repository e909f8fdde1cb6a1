#include "runloop/client/cli/schema.h"

#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/type_resolver.h"
#include "google/protobuf/util/type_resolver_util.h"
#include "runloop/client/cli/reflection_client.h"
#include "runloop/client/cli/text.h"
#include "runloop/runtime/error.h"

namespace runloop::cli {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::MethodDescriptor;
using google::protobuf::util::TypeResolver;

constexpr char kTypePrefix[] = "type.googleapis.com";

std::string TypeUrl(const Descriptor& type) {
  return absl::StrCat(kTypePrefix, "/", type.full_name());
}

std::string OperationName(const MethodDescriptor& method) {
  return absl::StrCat(method.service()->full_name(), "/", method.name());
}

// Every method of every service that the daemon lists: what somebody may have meant.
std::vector<std::string> AllMethods(ReflectionClient& reflection) {
  std::vector<std::string> methods;
  absl::StatusOr<std::vector<std::string>> services = reflection.ListServices();
  if (!services.ok()) return methods;
  for (const std::string& service : *services) {
    absl::StatusOr<google::protobuf::FileDescriptorSet> files = reflection.FilesOf(service);
    if (!files.ok() || files->file().empty()) continue;
    const google::protobuf::FileDescriptorProto& file = *files->file().rbegin();
    for (const auto& candidate : file.service()) {
      const std::string full_name =
          absl::StrCat(file.package(), file.package().empty() ? "" : ".", candidate.name());
      if (full_name != service) continue;
      for (const auto& method : candidate.method()) {
        methods.push_back(absl::StrCat(service, "/", method.name()));
      }
    }
  }
  return methods;
}

absl::Status Unknown(const std::string& name, ReflectionClient& reflection) {
  const std::vector<std::string> near = NearNames(name, AllMethods(reflection));
  return MakeError(
      absl::StatusCode::kUnimplemented, v1::ERROR_REASON_UNKNOWN_OPERATION,
      absl::StrCat(
          "the daemon has no operation '", name, "'",
          near.empty() ? "" : absl::StrCat("; did you mean ", absl::StrJoin(near, ", "), "?"),
          near.empty() ? ": `runloopctl operations` lists them" : ""));
}

// The messages and enums that `type` consists of, itself first, without those of protobuf itself.
// Nested types come with the one they are nested in.
class TypeCollector {
 public:
  void Add(const Descriptor& type) {
    const Descriptor* outermost = &type;
    while (outermost->containing_type() != nullptr) outermost = outermost->containing_type();
    if (IsOfProtobuf(*outermost->file()) || !seen_.insert(outermost).second) return;
    texts_.push_back(outermost->DebugString());
    AddFields(*outermost);
  }
  const std::vector<std::string>& texts() const { return texts_; }

 private:
  static bool IsOfProtobuf(const FileDescriptor& file) {
    return absl::StartsWith(file.name(), "google/protobuf/");
  }

  void AddFields(const Descriptor& type) {
    for (int i = 0; i < type.field_count(); ++i) {
      const FieldDescriptor& field = *type.field(i);
      if (field.message_type() != nullptr) Add(*field.message_type());
      if (field.enum_type() != nullptr) Add(*field.enum_type());
    }
    for (int i = 0; i < type.nested_type_count(); ++i) AddFields(*type.nested_type(i));
  }

  void Add(const EnumDescriptor& type) {
    if (type.containing_type() != nullptr) return Add(*type.containing_type());
    if (IsOfProtobuf(*type.file()) || !seen_.insert(&type).second) return;
    texts_.push_back(type.DebugString());
  }

  std::set<const void*> seen_;
  std::vector<std::string> texts_;
};

}  // namespace

absl::StatusOr<Schema> Schema::Fetch(const Daemon& daemon, const std::string& name) {
  std::string normal =
      name.substr(name.find_first_not_of('/') == name.npos ? 0 : name.find_first_not_of('/'));
  if (normal.find('/') == normal.npos && normal.rfind('.') != normal.npos) {
    normal[normal.rfind('.')] = '/';
  }
  const size_t slash = normal.find('/');
  ReflectionClient reflection(daemon);
  if (slash == normal.npos) return Unknown(name, reflection);
  const std::string service = normal.substr(0, slash);

  absl::StatusOr<google::protobuf::FileDescriptorSet> files = reflection.FilesOf(service);
  if (absl::IsNotFound(files.status()) || absl::IsPermissionDenied(files.status())) {
    return Unknown(name, reflection);
  }
  if (!files.ok()) return files.status();

  Schema schema;
  schema.files_ = *std::move(files);
  schema.pool_ = std::make_unique<google::protobuf::DescriptorPool>();
  for (const google::protobuf::FileDescriptorProto& file : schema.files_.file()) {
    if (schema.pool_->BuildFile(file) == nullptr) {
      return absl::InternalError(
          absl::StrCat("the daemon's ", file.name(), " is not a valid schema"));
    }
  }
  const google::protobuf::ServiceDescriptor* found = schema.pool_->FindServiceByName(service);
  if (found == nullptr) return Unknown(name, reflection);
  schema.method_ = found->FindMethodByName(normal.substr(slash + 1));
  if (schema.method_ == nullptr) return Unknown(name, reflection);
  if (schema.method_->client_streaming() || schema.method_->server_streaming()) {
    return absl::FailedPreconditionError(
        absl::StrCat(schema.name(), " streams; only unary methods can be called from here"));
  }
  return schema;
}

std::string Schema::name() const { return OperationName(*method_); }

absl::StatusOr<std::string> Schema::RequestFromJson(const std::string& json) const {
  const std::unique_ptr<TypeResolver> types(
      google::protobuf::util::NewTypeResolverForDescriptorPool(kTypePrefix, pool_.get()));
  std::string bytes;
  const auto status = google::protobuf::util::JsonToBinaryString(
      types.get(), TypeUrl(*method_->input_type()), json, &bytes);
  if (!status.ok()) {
    return UsageError(absl::StrCat("the request is not a ", method_->input_type()->full_name(),
                                   ": ", std::string(status.message()),
                                   "; see `runloopctl operations --describe ", name(), "`"));
  }
  return bytes;
}

absl::StatusOr<std::string> Schema::ReplyToJson(const std::string& bytes) const {
  const std::unique_ptr<TypeResolver> types(
      google::protobuf::util::NewTypeResolverForDescriptorPool(kTypePrefix, pool_.get()));
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto status = google::protobuf::util::BinaryToJsonString(
      types.get(), TypeUrl(*method_->output_type()), bytes, &json, options);
  if (!status.ok()) {
    return absl::InternalError(absl::StrCat("the reply is not a ",
                                            method_->output_type()->full_name(), ": ",
                                            std::string(status.message())));
  }
  return json;
}

std::string Schema::ToProtoText() const {
  TypeCollector types;
  types.Add(*method_->input_type());
  types.Add(*method_->output_type());
  return absl::StrCat("// ", name(), "\nrpc ", method_->name(), "(",
                      method_->input_type()->full_name(), ") returns (",
                      method_->output_type()->full_name(), ");\n\n",
                      absl::StrJoin(types.texts(), "\n"));
}

}  // namespace runloop::cli

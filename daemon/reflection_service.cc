#include "runloop/daemon/reflection_service.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "runloop/daemon/byte_buffer.h"
#include "runloop/daemon/service_names.h"

namespace runloop::daemon {
namespace {

// Names are short, and a stream keeps what was asked last.
constexpr size_t kMaxRequestBytes = 4096;

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::FileDescriptorProto;

// The two versions have the same messages under different names.
struct V1 {
  using Rpc = grpc::reflection::v1::ServerReflection;
  using Request = grpc::reflection::v1::ServerReflectionRequest;
  using Response = grpc::reflection::v1::ServerReflectionResponse;
  using FileDescriptorResponse = grpc::reflection::v1::FileDescriptorResponse;
};
struct V1Alpha {
  using Rpc = grpc::reflection::v1alpha::ServerReflection;
  using Request = grpc::reflection::v1alpha::ServerReflectionRequest;
  using Response = grpc::reflection::v1alpha::ServerReflectionResponse;
  using FileDescriptorResponse = grpc::reflection::v1alpha::FileDescriptorResponse;
};

// Answers the requests of one stream. What they name is a peer's text: it is only looked up.
template <typename Version>
class Answerer {
 public:
  explicit Answerer(std::vector<std::string> services) : services_(std::move(services)) {}

  void Answer(const typename Version::Request& request, typename Version::Response& response) {
    response.set_valid_host(request.host());
    *response.mutable_original_request() = request;
    switch (request.message_request_case()) {
      case Version::Request::kListServices:
        for (const std::string& name : services_) {
          response.mutable_list_services_response()->add_service()->set_name(name);
        }
        break;
      case Version::Request::kFileByFilename:
        AddFile(Pool().FindFileByName(request.file_by_filename()), "no file of this name",
                response);
        break;
      case Version::Request::kFileContainingSymbol:
        AddFile(Pool().FindFileContainingSymbol(request.file_containing_symbol()),
                "no symbol of this name", response);
        break;
      case Version::Request::kFileContainingExtension: {
        const auto& asked = request.file_containing_extension();
        const FieldDescriptor* extension = nullptr;
        if (const Descriptor* type = Pool().FindMessageTypeByName(asked.containing_type())) {
          extension = Pool().FindExtensionByNumber(type, asked.extension_number());
        }
        AddFile(extension == nullptr ? nullptr : extension->file(), "no such extension", response);
        break;
      }
      case Version::Request::kAllExtensionNumbersOfType:
        AddExtensionNumbers(request.all_extension_numbers_of_type(), response);
        break;
      case Version::Request::MESSAGE_REQUEST_NOT_SET:
        SetError(absl::StatusCode::kInvalidArgument, "the request asks for nothing", response);
        break;
    }
  }

 private:
  static const DescriptorPool& Pool() { return *DescriptorPool::generated_pool(); }

  static void SetError(absl::StatusCode code, const std::string& message,
                       typename Version::Response& response) {
    response.mutable_error_response()->set_error_code(static_cast<int>(code));
    response.mutable_error_response()->set_error_message(message);
  }

  void AddFile(const FileDescriptor* file, const std::string& otherwise,
               typename Version::Response& response) {
    if (file == nullptr) {
      SetError(absl::StatusCode::kNotFound, otherwise, response);
      return;
    }
    sent_.erase(file);  // what is asked for is sent, again if need be
    AddWithImports(*file, *response.mutable_file_descriptor_response());
  }

  // The file, and what it imports unless this stream has it.
  void AddWithImports(const FileDescriptor& file,
                      typename Version::FileDescriptorResponse& response) {
    if (!sent_.insert(&file).second) return;
    FileDescriptorProto proto;
    file.CopyTo(&proto);
    proto.SerializeToString(response.add_file_descriptor_proto());
    for (int i = 0; i < file.dependency_count(); ++i) {
      AddWithImports(*file.dependency(i), response);
    }
  }

  static void AddExtensionNumbers(const std::string& name, typename Version::Response& response) {
    const Descriptor* type = Pool().FindMessageTypeByName(name);
    if (type == nullptr) {
      SetError(absl::StatusCode::kNotFound, "no message type of this name", response);
      return;
    }
    auto& numbers = *response.mutable_all_extension_numbers_response();
    numbers.set_base_type_name(name);
    std::vector<const FieldDescriptor*> extensions;
    Pool().FindAllExtensions(type, &extensions);
    for (const FieldDescriptor* extension : extensions) {
      numbers.add_extension_number(extension->number());
    }
  }

  const std::vector<std::string> services_;
  std::set<const FileDescriptor*> sent_;
};

std::vector<std::string> ServicesFor(const internal::RuntimeCore& core, const Callers& callers,
                                     const grpc::ServerContextBase& context) {
  std::set<std::string, std::less<>> names = OperationServices(core.operations());
  names.emplace(kDispatcherService);
  names.emplace(kHealthService);
  names.emplace(kNotificationsService);
  if (callers.CheckMainSocket(context).ok()) {
    names.emplace(kControlService);
    names.emplace(kDiagnosticsService);
  }
  names.insert(V1::Rpc::service_full_name());
  names.insert(V1Alpha::Rpc::service_full_name());
  return {names.begin(), names.end()};
}

// One request, one response, until the peer half-closes.
template <typename Version>
class ReflectionCall final : public CallHandler {
 public:
  ReflectionCall(Call& call, std::vector<std::string> services)
      : call_(call), answerer_(std::move(services)) {}

  void Start() override { call_.Read(); }

  void OnRead(grpc::ByteBuffer* bytes) override {
    if (bytes == nullptr) {
      call_.Finish(absl::OkStatus());  // half-closed, or cancelled
      return;
    }
    typename Version::Request request;
    if (bytes->Length() > kMaxRequestBytes) {
      bytes->Clear();
      call_.Finish(absl::InvalidArgumentError("nothing has so long a name"));
    } else if (!ParseBytes(*bytes, request)) {
      call_.Finish(absl::InvalidArgumentError("the message is no valid " + request.GetTypeName()));
    } else {
      typename Version::Response response;
      answerer_.Answer(request, response);
      call_.Write(SerializeToBytes(response));
    }
  }
  void OnWritten(bool) override { call_.Read(); }
  void OnGone() override {}

 private:
  Call& call_;
  Answerer<Version> answerer_;
};

}  // namespace

std::unique_ptr<CallHandler> NewReflectionV1(const internal::RuntimeCore& core,
                                             const Callers& callers, Call& call) {
  return std::make_unique<ReflectionCall<V1>>(call, ServicesFor(core, callers, call.context()));
}

std::unique_ptr<CallHandler> NewReflectionV1Alpha(const internal::RuntimeCore& core,
                                                  const Callers& callers, Call& call) {
  return std::make_unique<ReflectionCall<V1Alpha>>(call,
                                                   ServicesFor(core, callers, call.context()));
}

}  // namespace runloop::daemon

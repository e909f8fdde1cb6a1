#include "runloop/client/cli/reflection_client.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace runloop::cli {

ReflectionClient::ReflectionClient(const Daemon& daemon)
    : daemon_(daemon), stub_(grpc::reflection::v1::ServerReflection::NewStub(daemon.channel())) {
  daemon_.Prepare(context_);
  stream_ = stub_->ServerReflectionInfo(&context_);
}

ReflectionClient::~ReflectionClient() {
  if (finished_) return;
  context_.TryCancel();
  stream_->Finish().IgnoreError();
}

absl::StatusOr<ReflectionClient::Response> ReflectionClient::Ask(const Request& request) {
  Response response;
  if (finished_) return absl::InternalError("the daemon's reflection has ended the stream");
  if (!stream_->Write(request) || !stream_->Read(&response)) {
    finished_ = true;
    const absl::Status status = daemon_.Check(stream_->Finish());
    if (status.ok()) return absl::InternalError("the daemon's reflection gave no answer");
    return status;
  }
  if (response.has_error_response()) {
    return absl::Status(static_cast<absl::StatusCode>(response.error_response().error_code()),
                        response.error_response().error_message());
  }
  return response;
}

absl::StatusOr<std::vector<std::string>> ReflectionClient::ListServices() {
  Request request;
  request.set_list_services("*");
  absl::StatusOr<Response> response = Ask(request);
  if (!response.ok()) return response.status();
  std::vector<std::string> names;
  for (const auto& service : response->list_services_response().service()) {
    names.push_back(service.name());
  }
  return names;
}

absl::StatusOr<google::protobuf::FileDescriptorSet> ReflectionClient::FilesOf(
    const std::string& symbol) {
  Request request;
  request.set_file_containing_symbol(symbol);
  absl::StatusOr<std::string> name = FetchFiles(request);
  if (!name.ok()) return name.status();
  google::protobuf::FileDescriptorSet files;
  std::map<std::string, bool> appended;
  if (absl::Status status = AppendFile(*name, files, appended); !status.ok()) return status;
  return files;
}

absl::StatusOr<std::string> ReflectionClient::FetchFiles(const Request& request) {
  absl::StatusOr<Response> response = Ask(request);
  if (!response.ok()) return response.status();
  std::string first;
  for (const std::string& bytes : response->file_descriptor_response().file_descriptor_proto()) {
    google::protobuf::FileDescriptorProto file;
    if (!file.ParseFromString(bytes)) {
      return absl::InternalError("the daemon's reflection gave a file that does not parse");
    }
    if (first.empty()) first = file.name();
    files_.try_emplace(file.name(), std::move(file));
  }
  if (first.empty()) return absl::InternalError("the daemon's reflection gave no file");
  return first;
}

absl::Status ReflectionClient::AppendFile(const std::string& name,
                                          google::protobuf::FileDescriptorSet& files,
                                          std::map<std::string, bool>& appended) {
  const auto [place, is_new] = appended.try_emplace(name, false);
  if (!is_new) {
    if (place->second) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("the file ", name, " imports itself"));
  }
  if (!files_.contains(name)) {
    Request request;
    request.set_file_by_filename(name);
    if (absl::StatusOr<std::string> fetched = FetchFiles(request); !fetched.ok()) {
      return fetched.status();
    }
    if (!files_.contains(name)) {
      return absl::InternalError(absl::StrCat("the daemon's reflection does not know ", name));
    }
  }
  const google::protobuf::FileDescriptorProto& file = files_.at(name);
  for (const std::string& import : file.dependency()) {
    if (absl::Status status = AppendFile(import, files, appended); !status.ok()) return status;
  }
  *files.add_file() = file;
  appended[name] = true;
  return absl::OkStatus();
}

}  // namespace runloop::cli

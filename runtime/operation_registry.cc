#include "runloop/runtime/operation_registry.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/strings.h"

namespace runloop {
Operation::Operation(const google::protobuf::MethodDescriptor* method, std::string name,
                     Handler handler)
    : method_(method),
      name_(std::move(name)),
      request_prototype_(google::protobuf::MessageFactory::generated_factory()->GetPrototype(
          method->input_type())),
      handler_(std::move(handler)) {}

std::unique_ptr<google::protobuf::Message> Operation::NewRequest() const {
  return std::unique_ptr<google::protobuf::Message>(request_prototype_->New());
}

absl::Status Operation::ParseRequest(std::string_view bytes,
                                     google::protobuf::Message& request) const {
  if (bytes.size() <= INT32_MAX &&
      request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::OkStatus();
  }
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                   absl::StrCat("the request of ", name_, " is not a valid ",
                                method_->input_type()->full_name()),
                   {{"operation", name_}});
}

absl::Status OperationRegistry::Add(std::string_view name,
                                    const google::protobuf::Descriptor* request,
                                    const google::protobuf::Descriptor* reply,
                                    Operation::Handler handler) {
  const size_t slash = name.find('/');
  if (slash == std::string_view::npos || slash == 0 || slash + 1 == name.size() ||
      name.find('/', slash + 1) != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", View(name), "' is no operation name; write it as package.Service/Method"));
  }
  std::string full_name(name);
  full_name[slash] = '.';
  const google::protobuf::MethodDescriptor* method =
      google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(full_name);
  if (method == nullptr) {
    return absl::NotFoundError(absl::StrCat("no method ", View(name),
                                            " is linked in: link the generated code of its .proto, "
                                            "and check package, service and method"));
  }
  if (method->client_streaming() || method->server_streaming()) {
    return absl::InvalidArgumentError(
        absl::StrCat(View(name), " streams; an operation has one request and one reply"));
  }
  if (method->input_type() != request || method->output_type() != reply) {
    return absl::InvalidArgumentError(
        absl::StrCat(View(name), " takes ", method->input_type()->full_name(), " and returns ",
                     method->output_type()->full_name(), "; the handler is for ",
                     request->full_name(), " and ", reply->full_name()));
  }
  if (Find(name) != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat(View(name), " is registered already"));
  }
  auto operation = std::make_unique<Operation>(method, std::string(name), std::move(handler));
  const absl::string_view own_name = View(operation->name());
  operations_.emplace(own_name, std::move(operation));
  return absl::OkStatus();
}

absl::Status OperationRegistry::AddTopic(std::string_view name,
                                         const google::protobuf::Descriptor* type,
                                         TopicOptions options) {
  const auto is_part = [](std::string_view part) {
    return !part.empty() && std::all_of(part.begin(), part.end(), [](unsigned char c) {
      return absl::ascii_isalnum(c) || c == '_' || c == '.';
    });
  };
  const size_t slash = name.find('/');
  if (slash == std::string_view::npos || !is_part(name.substr(0, slash)) ||
      !is_part(name.substr(slash + 1))) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", View(name), "' is no topic's name; write it as package.Something/Word"));
  }
  if (google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(
          type->full_name()) != type) {
    return absl::InvalidArgumentError(
        absl::StrCat("the type of ", View(name), ", ", type->full_name(),
                     ", is of no .proto whose generated code is linked in"));
  }
  auto topic = std::make_shared<const Topic>(std::string(name), type, options);
  if (!topics_.try_emplace(topic->name(), topic).second) {
    return absl::AlreadyExistsError(absl::StrCat(View(name), " is registered already"));
  }
  return absl::OkStatus();
}

std::vector<std::shared_ptr<const Topic>> OperationRegistry::ListTopics() const {
  std::vector<std::shared_ptr<const Topic>> list;
  for (const auto& [name, topic] : topics_) list.push_back(topic);
  return list;
}

const Operation* OperationRegistry::Find(std::string_view name) const {
  const auto found = operations_.find(View(name));
  return found == operations_.end() ? nullptr : found->second.get();
}

std::vector<const Operation*> OperationRegistry::List() const {
  std::vector<const Operation*> list;
  list.reserve(operations_.size());
  for (const auto& [name, operation] : operations_) list.push_back(operation.get());
  std::sort(list.begin(), list.end(),
            [](const Operation* a, const Operation* b) { return a->name() < b->name(); });
  return list;
}

}  // namespace runloop

#include "runloop/ipc/status_codec.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "runloop/runtime/error.h"
#include "runloop/v1/status.pb.h"

namespace runloop {
namespace {

constexpr size_t kMaxMessage = 1024;
constexpr size_t kMaxDetails = 3072;
constexpr absl::string_view kCut = "...";

// Cuts between characters of UTF-8.
std::string Bounded(std::string message) {
  if (message.size() <= kMaxMessage) return message;
  size_t end = kMaxMessage - kCut.size();
  while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;
  return absl::StrCat(message.substr(0, end), kCut);
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  v1::Status proto = ToProto(status);
  proto.set_message(Bounded(std::move(*proto.mutable_message())));
  if (proto.ByteSizeLong() > kMaxDetails) proto.clear_details();
  return grpc::Status(static_cast<grpc::StatusCode>(proto.code()), proto.message(),
                      proto.details().empty() ? std::string() : proto.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  v1::Status proto;
  if (!proto.ParseFromString(status.error_details()) || proto.code() != status.error_code()) {
    proto.Clear();
  }
  proto.set_code(status.error_code());
  proto.set_message(status.error_message());
  return FromProto(proto);
}

}  // namespace runloop

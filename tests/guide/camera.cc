// The operations that the guide registers and its tests dispatch.

#include "runloop/tests/guide/camera.h"

#include <sys/stat.h>
#include <unistd.h>

#include <numeric>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runloop/runtime/buffer.h"
#include "runloop/runtime/handle.h"
#include "runloop/runtime/operation_context.h"
#include "runloop/runtime/unique_fd.h"

namespace acme {
namespace {

using v1::AskPermissionReply;
using v1::AskPermissionRequest;
using v1::ConfigureReply;
using v1::ConfigureRequest;
using v1::DescribeReply;
using v1::DescribeRequest;
using v1::EncodeReply;
using v1::EncodeRequest;
using v1::OpenReply;
using v1::OpenRequest;
using v1::ZoomReply;
using v1::ZoomRequest;

absl::Status RegisterDescribe(runloop::OperationRegistry& operations) {
  // [register]
  absl::Status added = operations.Register<DescribeRequest, DescribeReply>(
      "acme.v1.Camera/Describe",
      [](runloop::OperationContext&, DescribeRequest request) -> absl::StatusOr<DescribeReply> {
        // On the runtime thread: here the platform may be called.
        if (request.name() != "front") return absl::NotFoundError("there is no such camera");
        DescribeReply reply;
        reply.set_width(1920);
        reply.set_height(1080);
        return reply;
      });
  // [/register]
  return added;
}

absl::Status RegisterAskPermission(runloop::OperationRegistry& operations,
                                   const std::shared_ptr<Sdk>& sdk) {
  // [deferred]
  absl::Status added = operations.RegisterDeferred<AskPermissionRequest, AskPermissionReply>(
      "acme.v1.Camera/AskPermission", [sdk](runloop::OperationContext&, AskPermissionRequest,
                                            runloop::Completion<AskPermissionReply> completion) {
        sdk->AskUser([completion = std::move(completion)](bool granted) mutable {
          AskPermissionReply reply;  // later, on whatever thread the SDK calls back
          reply.set_granted(granted);
          completion.Finish(std::move(reply));
        });
      });
  // [/deferred]
  return added;
}

// [close]
class OpenCamera {
 public:
  explicit OpenCamera(std::shared_ptr<Sdk> sdk) : sdk_(std::move(sdk)) {}
  void Zoom(int percent) { sdk_->Zoom(percent); }
  // Called once, on the runtime thread, when the handle is released or its session has ended.
  void Close(runloop::Closing closing) {
    sdk_->Shut([closing = std::move(closing)] {});  // closed when the SDK drops its callback
  }

 private:
  const std::shared_ptr<Sdk> sdk_;
};
// [/close]

absl::Status RegisterOpen(runloop::OperationRegistry& operations, const std::shared_ptr<Sdk>& sdk) {
  // [keep]
  absl::Status added = operations.Register<OpenRequest, OpenReply>(
      "acme.v1.Camera/Open",
      [sdk](runloop::OperationContext& context, OpenRequest) -> absl::StatusOr<OpenReply> {
        absl::StatusOr<runloop::Handle> camera = context.Keep(std::make_unique<OpenCamera>(sdk));
        if (!camera.ok()) return camera.status();
        OpenReply reply;
        reply.set_camera(*camera);
        return reply;
      });
  // [/keep]
  return added;
}

absl::Status RegisterZoom(runloop::OperationRegistry& operations) {
  // [find]
  absl::Status added = operations.Register<ZoomRequest, ZoomReply>(
      "acme.v1.Camera/Zoom",
      [](runloop::OperationContext& context, ZoomRequest request) -> absl::StatusOr<ZoomReply> {
        absl::StatusOr<OpenCamera*> camera = context.session()->Find<OpenCamera>(request.camera());
        if (!camera.ok()) return camera.status();
        (*camera)->Zoom(static_cast<int>(request.percent()));
        return ZoomReply();
      });
  // [/find]
  return added;
}

absl::Status RegisterEncode(runloop::OperationRegistry& operations) {
  // [buffer_handler]
  absl::Status added = operations.Register<EncodeRequest, EncodeReply>(
      "acme.v1.Camera/Encode",
      [](runloop::OperationContext& context, EncodeRequest request) -> absl::StatusOr<EncodeReply> {
        absl::StatusOr<runloop::Buffer> pixels = context.OpenBuffer(request.pixels());
        if (!pixels.ok()) return pixels.status();
        EncodeReply reply;  // the worker may write to pixels->data() even now
        reply.set_brightness(
            std::accumulate(pixels->data().begin(), pixels->data().end(), uint64_t{0}));
        return reply;
      });
  // [/buffer_handler]
  return added;
}

absl::Status RegisterConfigure(runloop::OperationRegistry& operations) {
  // [descriptor_handler]
  absl::Status added = operations.Register<ConfigureRequest, ConfigureReply>(
      "acme.v1.Camera/Configure",
      [](runloop::OperationContext& context,
         ConfigureRequest request) -> absl::StatusOr<ConfigureReply> {
        absl::StatusOr<runloop::UniqueFd> file = context.TakeDescriptor(request.file());
        if (!file.ok()) return file.status();
        struct stat what;  // it may be of anything, so ask the kernel
        if (fstat(file->get(), &what) != 0 || !S_ISREG(what.st_mode)) {
          return absl::InvalidArgumentError("a profile is a file");
        }
        char text[64];
        const ssize_t size = pread(file->get(), text, sizeof(text), 0);
        ConfigureReply reply;
        reply.set_profile(std::string(text, size > 0 ? static_cast<size_t>(size) : 0));
        return reply;
      });
  // [/descriptor_handler]
  return added;
}

}  // namespace

absl::Status RegisterCamera(runloop::OperationRegistry& operations, std::shared_ptr<Sdk> sdk) {
  absl::Status all = RegisterDescribe(operations);
  all.Update(RegisterAskPermission(operations, sdk));
  all.Update(RegisterOpen(operations, sdk));
  all.Update(RegisterZoom(operations));
  all.Update(RegisterEncode(operations));
  all.Update(RegisterConfigure(operations));
  return all;
}

void Sdk::AskUser(absl::AnyInvocable<void(bool granted) &&> answered) {
  absl::MutexLock lock(&mutex_);
  asked_.push_back(std::move(answered));
  changed_.SignalAll();
}

void Sdk::Shut(absl::AnyInvocable<void() &&> shut) {
  absl::MutexLock lock(&mutex_);
  shutting_.push_back(std::move(shut));
  changed_.SignalAll();
}

void Sdk::Zoom(int percent) {
  absl::MutexLock lock(&mutex_);
  zooms_.push_back(percent);
}

void Sdk::Answer(bool granted) {
  absl::AnyInvocable<void(bool granted) &&> answered;
  {
    absl::MutexLock lock(&mutex_);
    while (asked_.empty()) changed_.Wait(&mutex_);
    answered = std::move(asked_.front());
    asked_.pop_front();
  }
  std::move(answered)(granted);
}

void Sdk::FinishShutting() {
  absl::AnyInvocable<void() &&> shut;
  {
    absl::MutexLock lock(&mutex_);
    while (shutting_.empty()) changed_.Wait(&mutex_);
    shut = std::move(shutting_.front());
    shutting_.pop_front();
  }
  std::move(shut)();
}

std::vector<int> Sdk::zooms() const {
  absl::MutexLock lock(&mutex_);
  return zooms_;
}

}  // namespace acme

#ifndef RUNLOOP_TESTS_GUIDE_FIXTURE_H_
#define RUNLOOP_TESTS_GUIDE_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "runloop/client/connect.h"
#include "runloop/daemon/host.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/guide/camera.h"

namespace acme {

using v1::DescribeReply;
using v1::DescribeRequest;
using v1::ZoomReply;
using v1::ZoomRequest;

// A host of the camera's operations, and workers that reach it by its socket. What lies between
// `// [name]` and `// [/name]` is shown in docs/guide.md (tests/guide/check).
class GuideTest : public testing::Test {
 protected:
  GuideTest() {
    directory_ = testing::TempDir() + "/runloop-guide-XXXXXX";
    EXPECT_NE(mkdtemp(directory_.data()), nullptr);
    // By its own name this process reaches it in process; by another it goes through the socket.
    std::filesystem::create_symlink(directory_ + "/s", address());
  }
  ~GuideTest() override {
    LetGo();
    host_.reset();
    runtime_.reset();
    std::filesystem::remove_all(directory_);
  }

  static runloop::LogSink Quiet() {
    return [](runloop::LogSeverity, std::string_view) {};
  }

  void Start(runloop::HostOptions host_options = {}) {
    runloop::OperationRegistry operations;
    ASSERT_TRUE(RegisterCamera(operations, sdk_).ok());
    Start(std::move(operations), std::move(host_options));
  }
  void Start(runloop::OperationRegistry operations, runloop::HostOptions host_options = {}) {
    runtime_ = *runloop::Runtime::Create({.operations = std::move(operations),
                                          .thread = runloop::RuntimeThread::kSpawn,
                                          .log = Quiet()});
    host_options.listen = directory_ + "/s";
    host_options.log = Quiet();
    host_ = *runloop::Host::Start(*runtime_, std::move(host_options));
  }

  std::string address() const { return directory_ + "/worker"; }
  runloop::RuntimeContext Connect() { return *runloop::Connect({.address = address()}); }
  runloop::LocalRuntimeContext local() { return runtime_->context(); }

  // A camera that the session has opened.
  static ZoomRequest ZoomOf(const runloop::RuntimeContext& context, uint32_t percent) {
    ZoomRequest zoom;
    zoom.set_camera(
        context.DispatchBlocking<v1::OpenReply>("acme.v1.Camera/Open", v1::OpenRequest())
            ->camera());
    zoom.set_percent(percent);
    return zoom;
  }
  static DescribeRequest Front() {
    DescribeRequest request;
    request.set_name("front");
    return request;
  }

  // Keeps the runtime thread until LetGo.
  void HoldThread() {
    let_go_ = std::make_shared<absl::Notification>();
    const auto held = std::make_shared<absl::Notification>();
    ASSERT_TRUE(local()
                    .RunOnRuntimeThreadAsync([held, let_go = let_go_] {
                      held->Notify();
                      let_go->WaitForNotification();
                    })
                    .ok());
    held->WaitForNotification();
  }
  void LetGo() {
    if (let_go_ != nullptr && !let_go_->HasBeenNotified()) let_go_->Notify();
  }

  const std::shared_ptr<Sdk> sdk_ = std::make_shared<Sdk>();
  std::shared_ptr<absl::Notification> let_go_;
  std::string directory_;
  std::unique_ptr<runloop::Runtime> runtime_;
  std::unique_ptr<runloop::Host> host_;
};

}  // namespace acme

#endif  // RUNLOOP_TESTS_GUIDE_FIXTURE_H_

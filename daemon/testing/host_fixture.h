#ifndef RUNLOOP_DAEMON_TESTING_HOST_FIXTURE_H_
#define RUNLOOP_DAEMON_TESTING_HOST_FIXTURE_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "runloop/daemon/host.h"
#include "runloop/ipc/status_codec.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/runtime.h"
#include "runloop/test/v1/test_operations.grpc.pb.h"
#include "runloop/tests/testing/test_operations.h"
#include "runloop/tests/testing/test_topics.h"
#include "runloop/v1/diagnostics.grpc.pb.h"
#include "runloop/v1/dispatcher.grpc.pb.h"

namespace runloop::daemon {

// A host of the test operations, in a directory of its own, whose runtime has its own thread.
class HostFixture : public ::testing::Test {
 protected:
  HostFixture() {
    char name[] = "/tmp/runloop-XXXXXX";
    directory_ = mkdtemp(name);
  }
  ~HostFixture() override {
    host_.reset();
    runtime_.reset();
    std::filesystem::remove_all(directory_);
  }

  void Start(HostOptions options = {}) {
    OperationRegistry registry;
    operations_ = TestOperations::Register(registry);
    RegisterTestTopics(registry);
    const LogSink quiet = [](LogSeverity, std::string_view) {};
    runtime_ = *Runtime::Create(
        {.operations = std::move(registry), .thread = RuntimeThread::kSpawn, .log = quiet});
    options.listen = directory_ + "/s";
    if (!options.log) options.log = quiet;
    host_ = *Host::Start(*runtime_, std::move(options));
  }

  // A connection of its own.
  std::shared_ptr<grpc::Channel> Connect(const std::string& socket = "s") const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetMaxReceiveMessageSize(-1);
    return grpc::CreateCustomChannel("unix:" + directory_ + "/" + socket,
                                     grpc::InsecureChannelCredentials(), arguments);
  }

  static v1::ErrorReason ReasonOf(const grpc::Status& status) {
    return runloop::ReasonOf(FromGrpcStatus(status));
  }

  // Blocks until a snapshot satisfies `condition`.
  template <typename Condition>
  Runtime::Snapshot Await(Condition condition) const {
    for (;;) {
      Runtime::Snapshot snapshot = runtime_->GetSnapshot();
      if (condition(snapshot)) return snapshot;
      std::this_thread::yield();
    }
  }

  std::string directory_;
  std::shared_ptr<TestOperations> operations_;
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Host> host_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_TESTING_HOST_FIXTURE_H_

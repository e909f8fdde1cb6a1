#ifndef RUNLOOP_DAEMON_TESTING_SESSION_STREAM_FIXTURE_H_
#define RUNLOOP_DAEMON_TESTING_SESSION_STREAM_FIXTURE_H_

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "runloop/daemon/testing/host_fixture.h"

namespace runloop::daemon {

// A worker that speaks the protocol by hand.
class Worker {
 public:
  explicit Worker(std::shared_ptr<grpc::Channel> channel)
      : stub_(v1::Dispatcher::NewStub(std::move(channel))), stream_(stub_->Session(&context_)) {}

  bool Send(const v1::SessionRequest& request) { return stream_->Write(request); }

  void SendHello(uint32_t min = 1, uint32_t max = 1) {
    v1::SessionRequest request;
    request.mutable_hello()->mutable_versions()->set_min(min);
    request.mutable_hello()->mutable_versions()->set_max(max);
    request.mutable_hello()->set_client_name("worker\n\x1b[31m\xc2\x9b\xc2\xa0\xc3\xa4");
    Send(request);
  }

  v1::Welcome Open() {
    SendHello();
    v1::SessionResponse response;
    EXPECT_TRUE(stream_->Read(&response));
    EXPECT_TRUE(response.has_welcome());
    return response.welcome();
  }

  v1::Dispatch& Add(v1::SessionRequest& request, const std::string& operation,
                    const google::protobuf::Message* message = nullptr) {
    v1::Dispatch& dispatch = *request.add_dispatches();
    dispatch.set_invocation_id(next_id_++);
    dispatch.set_operation_name(operation);
    if (message != nullptr) dispatch.set_request(message->SerializeAsString());
    return dispatch;
  }

  // Reads one message into what is known; false at the stream's end.
  bool Read() {
    v1::SessionResponse response;
    if (!stream_->Read(&response)) return false;
    ++messages_;
    draining_ = draining_ || response.has_draining();
    for (const v1::Outcome& outcome : response.outcomes()) {
      EXPECT_TRUE(outcomes_.emplace(outcome.invocation_id(), outcome).second);
    }
    const v1::InvocationRanges& succeeded = response.succeeded();
    for (uint64_t id = 1; id < next_id_; ++id) {
      bool in = id <= succeeded.watermark();
      for (const auto& range : succeeded.ranges()) {
        in = in || (id >= range.first() && id <= range.last());
      }
      if (in && !outcomes_.contains(id)) succeeded_.insert(id);
    }
    return true;
  }

  // The same without the acknowledgements, which cost a pass over all invocations.
  bool ReadOutcomes() {
    v1::SessionResponse response;
    if (!stream_->Read(&response)) return false;
    for (v1::Outcome& outcome : *response.mutable_outcomes()) {
      const uint64_t id = outcome.invocation_id();
      EXPECT_TRUE(outcomes_.emplace(id, std::move(outcome)).second);
    }
    return true;
  }

  void AwaitEnded(size_t count) {
    while (succeeded_.size() + outcomes_.size() < count) ASSERT_TRUE(Read());
  }

  v1::ErrorReason ReasonOf(uint64_t id) {
    return runloop::ReasonOf(FromProto(outcomes_[id].status()));
  }

  std::map<std::string, std::string> MetadataOf(uint64_t id) {
    const v1::Status& status = outcomes_[id].status();
    v1::ErrorInfo info;
    EXPECT_EQ(status.details_size(), 1);
    EXPECT_TRUE(info.ParseFromString(status.details(0).value()));
    return {info.metadata().begin(), info.metadata().end()};
  }

  void HalfClose() { stream_->WritesDone(); }
  void Break() { context_.TryCancel(); }
  grpc::Status Finish() {
    while (Read()) {
    }
    return stream_->Finish();
  }

  std::map<uint64_t, v1::Outcome> outcomes_;
  std::set<uint64_t> succeeded_;
  int messages_ = 0;
  bool draining_ = false;

 private:
  std::atomic<uint64_t> next_id_{1};
  grpc::ClientContext context_;
  std::unique_ptr<v1::Dispatcher::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>> stream_;
};

class SessionStreamTest : public HostFixture {
 protected:
  static test::v1::RecordRequest Record(uint64_t index) {
    test::v1::RecordRequest request;
    request.set_index(index);
    return request;
  }

  // What the stream ends with after `request` instead of a hello, or after the hello.
  absl::Status EndAfter(const v1::SessionRequest& request, bool hello = true) {
    Worker worker(Connect());
    if (hello) worker.Open();
    worker.Send(request);
    return FromGrpcStatus(worker.Finish());
  }
};
}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_TESTING_SESSION_STREAM_FIXTURE_H_

#include "runloop/client/scripted_daemon.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
// The headers of gRPC's callback server hand objects from thread to thread inside a library that
// the sanitizer does not see. Only this stand-in uses them.
extern "C" const char* __tsan_default_suppressions() {
  return "race:grpc::CompletionQueue::AsyncNextInternal\n"
         "race:grpc::internal::CallbackWithSuccessTag::Run\n"
         "race:grpc::internal::CallbackWithStatusTag\n"
         "race:grpc::internal::CallbackBidiHandler\n"
         "race:runloop::internal::ScriptedDaemon::Reactor\n";
}
#endif
#endif

namespace runloop::internal {

class ScriptedDaemon::Reactor final
    : public grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse> {
 public:
  explicit Reactor(ScriptedDaemon& daemon) : daemon_(daemon) { StartRead(&request_); }

  void OnReadDone(bool ok) override {
    absl::MutexLock lock(&daemon_.mutex_);
    if (!ok) {
      daemon_.requests_.emplace_back(std::nullopt);
      if (daemon_.leaving_) End(grpc::Status::OK);
      return;
    }
    if (request_.has_hello()) {
      ++daemon_.sessions_;
      daemon_.hello_ = request_.hello();
      if (daemon_.refusal_.has_value()) {
        FinishOnce(*daemon_.refusal_);
        return;
      }
      daemon_.session_ = this;
      if (daemon_.welcome_.has_value()) Send(*daemon_.welcome_);
    } else {
      daemon_.requests_.emplace_back(std::move(request_));
    }
    StartRead(&request_);
  }

  void OnWriteDone(bool) override {
    absl::MutexLock lock(&daemon_.mutex_);
    outgoing_.pop_front();
    Continue();
  }

  void OnCancel() override {
    absl::MutexLock lock(&daemon_.mutex_);
    FinishOnce(grpc::Status::CANCELLED);
  }

  void OnDone() override {
    {
      absl::MutexLock lock(&daemon_.mutex_);
      if (daemon_.session_ == this) daemon_.session_ = nullptr;
    }
    delete this;
  }

  // The daemon's lock is held for all of these.
  void Send(v1::SessionResponse response) {
    outgoing_.push_back(std::move(response));
    if (outgoing_.size() == 1) Continue();
  }
  void End(const grpc::Status& status) {
    end_ = status;
    if (outgoing_.empty()) Continue();
  }

 private:
  void Continue() {
    if (finished_) return;
    if (!outgoing_.empty()) {
      StartWrite(&outgoing_.front());
    } else if (end_.has_value()) {
      FinishOnce(*end_);
    }
  }
  void FinishOnce(const grpc::Status& status) {
    if (std::exchange(finished_, true)) return;
    Finish(status);
  }

  ScriptedDaemon& daemon_;
  v1::SessionRequest request_;
  std::deque<v1::SessionResponse> outgoing_;
  std::optional<grpc::Status> end_;
  bool finished_ = false;
};

class ScriptedDaemon::Service final : public v1::Dispatcher::CallbackService {
 public:
  explicit Service(ScriptedDaemon& daemon) : daemon_(daemon) {}

  grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>* Session(
      grpc::CallbackServerContext*) override {
    return new Reactor(daemon_);
  }

 private:
  ScriptedDaemon& daemon_;
};

ScriptedDaemon::ScriptedDaemon()
    : directory_("/tmp/scripted-XXXXXX"), service_(std::make_unique<Service>(*this)) {
  if (mkdtemp(directory_.data()) == nullptr) std::abort();
  address_ = "unix:" + directory_ + "/s";
  v1::Welcome& welcome = *welcome_.emplace().mutable_welcome();
  welcome.set_version(1);
  v1::OperationId& operation = *welcome.add_operations();
  operation.set_id(7);
  operation.set_name("a.B/C");
}

ScriptedDaemon::~ScriptedDaemon() {
  Stop();
  std::filesystem::remove_all(directory_);
}

void ScriptedDaemon::Start() {
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(-1);
  builder.AddListeningPort(address_, grpc::InsecureServerCredentials());
  builder.RegisterService(service_.get());
  server_ = builder.BuildAndStart();
}

void ScriptedDaemon::Stop() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

void ScriptedDaemon::SetWelcome(std::optional<v1::SessionResponse> welcome) {
  absl::MutexLock lock(&mutex_);
  welcome_ = std::move(welcome);
}

void ScriptedDaemon::SetRefusal(std::optional<grpc::Status> refusal) {
  absl::MutexLock lock(&mutex_);
  refusal_ = std::move(refusal);
}

std::optional<v1::SessionRequest> ScriptedDaemon::Next() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &ScriptedDaemon::has_request));
  std::optional<v1::SessionRequest> request = std::move(requests_.front());
  requests_.pop_front();
  return request;
}

v1::Hello ScriptedDaemon::hello() const {
  absl::MutexLock lock(&mutex_);
  return hello_;
}

int ScriptedDaemon::sessions() const {
  absl::MutexLock lock(&mutex_);
  return sessions_;
}

void ScriptedDaemon::AwaitSessions(int sessions) {
  const SessionCount count{.daemon = *this, .wanted = sessions};
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&count, &SessionCount::reached));
}

void ScriptedDaemon::Send(v1::SessionResponse response) {
  absl::MutexLock lock(&mutex_);
  if (session_ != nullptr) session_->Send(std::move(response));
}

void ScriptedDaemon::Leave() {
  absl::MutexLock lock(&mutex_);
  leaving_ = true;
  if (session_ != nullptr) session_->End(grpc::Status::OK);
}

void ScriptedDaemon::End(const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (session_ != nullptr) session_->End(status);
}

}  // namespace runloop::internal

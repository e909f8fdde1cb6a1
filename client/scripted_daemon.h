#ifndef RUNLOOP_CLIENT_SCRIPTED_DAEMON_H_
#define RUNLOOP_CLIENT_SCRIPTED_DAEMON_H_

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/server.h"
#include "runloop/v1/dispatcher.grpc.pb.h"

namespace runloop::internal {

// A daemon whose every word a test chooses, honest or not. One session at a time. Thread-safe.
class ScriptedDaemon {
 public:
  // Welcomes with version 1, no limits, and the id 7 for the operation a.B/C.
  ScriptedDaemon();
  ~ScriptedDaemon();

  // Listens.
  void Start();
  // Breaks every connection. Start may follow.
  void Stop();
  const std::string& address() const { return address_; }

  // What the next sessions are answered with, nullopt: nothing, until Send; and instead of it a
  // status to refuse them with.
  void SetWelcome(std::optional<v1::SessionResponse> welcome);
  void SetRefusal(std::optional<grpc::Status> refusal);

  // The client's next message after its Hello; nullopt once it has half-closed or left. Blocks
  // until there is one.
  std::optional<v1::SessionRequest> Next();
  // The Hello of the latest session.
  v1::Hello hello() const;
  int sessions() const;
  // Blocks until there were as many.
  void AwaitSessions(int sessions);

  // Only while there is a session.
  void Send(v1::SessionResponse response);
  void End(const grpc::Status& status);
  // Ends the session, and each later one as soon as its client says that it has no more.
  void Leave();

 private:
  class Service;
  class Reactor;

  bool has_request() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !requests_.empty(); }

  struct SessionCount {
    const ScriptedDaemon& daemon;
    int wanted;
    bool reached() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(daemon.mutex_) {
      return daemon.sessions_ >= wanted;
    }
  };

  std::string directory_;
  std::string address_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;

  mutable absl::Mutex mutex_;
  bool leaving_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<v1::SessionResponse> welcome_ ABSL_GUARDED_BY(mutex_);
  std::optional<grpc::Status> refusal_ ABSL_GUARDED_BY(mutex_);
  v1::Hello hello_ ABSL_GUARDED_BY(mutex_);
  int sessions_ ABSL_GUARDED_BY(mutex_) = 0;
  Reactor* session_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::deque<std::optional<v1::SessionRequest>> requests_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_SCRIPTED_DAEMON_H_

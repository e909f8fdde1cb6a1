#ifndef RUNLOOP_DAEMON_TESTING_LISTENER_FIXTURE_H_
#define RUNLOOP_DAEMON_TESTING_LISTENER_FIXTURE_H_

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "runloop/daemon/connection_table.h"
#include "runloop/daemon/listener.h"
#include "runloop/daemon/listening_socket.h"
#include "runloop/ipc/unix_socket.h"

namespace runloop::daemon {

// A listener with a server behind it that only keeps what it is handed.
class ListenerFixture : public ::testing::Test {
 protected:
  ListenerFixture() {
    char name[] = "/tmp/runloop-XXXXXX";
    directory_ = mkdtemp(name);
    address_.path = directory_ + "/s";
  }
  ~ListenerFixture() override {
    listener_.reset();
    for (const int fd : served_) close(fd);
    std::filesystem::remove_all(directory_);
  }

  void Start(absl::Duration first_byte_timeout = absl::Seconds(30), size_t max_pending = 256) {
    std::vector<ListeningSocket> sockets;
    sockets.push_back(*ListeningSocket::Listen(address_));
    ListenerOptions options{.sockets = std::move(sockets),
                            .serve =
                                [this](int fd, const std::string&) {
                                  absl::MutexLock lock(&mutex_);
                                  served_.push_back(fd);
                                },
                            .connections = &connections_,
                            .buffers = buffers_.get(),
                            .sessions = &sessions_,
                            .log =
                                [this](LogSeverity, std::string_view line) {
                                  absl::MutexLock lock(&mutex_);
                                  log_.emplace_back(line);
                                }};
    options.first_byte_timeout = first_byte_timeout;
    options.max_pending = max_pending;
    options.max_connections = max_connections_;
    options.max_role_connections = max_role_connections_;
    listener_ = *Listener::Create(std::move(options));
  }

  UniqueFd Connect() { return *ConnectUnix(address_); }

  static void Send(const UniqueFd& socket, std::string_view bytes,
                   const std::vector<int>& fds = {}) {
    ASSERT_EQ(SendWithFds(socket.get(), bytes, fds)->bytes, bytes.size());
  }

  // Blocks until the peer has closed, however much it sent before.
  static void AwaitEnd(const UniqueFd& socket) {
    char buffer[256];
    while (recv(socket.get(), buffer, sizeof(buffer), 0) > 0) {
    }
  }

  int AwaitServed(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [this, count]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return served_.size() >= count;
    };
    mutex_.Await(absl::Condition(&enough));
    return served_[count - 1];
  }

  void AwaitConnections(size_t count) {
    while (connections_.size() != count) std::this_thread::yield();
  }

  std::string directory_;
  Address address_;
  size_t max_connections_ = 512;
  size_t max_role_connections_ = 2;
  ConnectionTable connections_;
  const std::shared_ptr<internal::BufferRegistry> buffers_ =
      std::make_shared<internal::BufferRegistry>(BufferBounds(), 1000);
  SessionTokens sessions_;
  absl::Mutex mutex_;
  std::vector<int> served_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> log_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Listener> listener_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_TESTING_LISTENER_FIXTURE_H_

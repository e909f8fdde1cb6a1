#ifndef RUNLOOP_TESTS_TESTING_LINGERING_SOCKET_H_
#define RUNLOOP_TESTS_TESTING_LINGERING_SOCKET_H_

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <utility>

#include "runloop/runtime/unique_fd.h"

namespace runloop {

// A socket whose last close waits, for as long as `reader` is there and reads nothing, or for
// twenty seconds.
struct LingeringSocket {
  LingeringSocket() {
    const UniqueFd listening(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const to = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(bind(listening.get(), to, size), 0);
    EXPECT_EQ(listen(listening.get(), 1), 0);
    EXPECT_EQ(getsockname(listening.get(), to, &size), 0);
    socket_.Reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(socket_.get(), to, size), 0);
    reader.Reset(accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const char bytes[4096] = {};
    while (send(socket_.get(), bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
    }
    Linger();
  }

  int fd() const { return socket_.get(); }
  // Who receives a descriptor may have told it not to.
  void Linger() const {
    const linger twenty_seconds{.l_onoff = 1, .l_linger = 20};
    EXPECT_EQ(
        setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &twenty_seconds, sizeof(twenty_seconds)),
        0);
  }
  UniqueFd Take() { return std::move(socket_); }

  UniqueFd reader;

 private:
  UniqueFd socket_;
};

}  // namespace runloop

#endif  // RUNLOOP_TESTS_TESTING_LINGERING_SOCKET_H_

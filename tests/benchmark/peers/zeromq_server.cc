// ZeroMQ: REQ and REP for what is waited for, PUSH and PULL for what is not; the server polls both
// from one thread.

#include <unistd.h>

#include <set>
#include <string>
#include <utility>
#include <zmq.hpp>

#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/peers/peer_server.h"
#include "runloop/tests/benchmark/processes.h"
#include "runloop/tests/benchmark/work.h"

namespace runloop::benchmark {
namespace {

std::string CallAddress(const std::string& socket) { return "ipc://" + socket + ".calls"; }
std::string PushAddress(const std::string& socket) { return "ipc://" + socket + ".pushed"; }

// Ends a flood, and asks whether that end has come: shorter than any payload.
struct Mark {
  pid_t worker;
};

class Server {
 public:
  explicit Server(const std::string& socket) {
    calls_.bind(CallAddress(socket));
    pushed_.bind(PushAddress(socket));
  }

  void Serve() {
    zmq::pollitem_t items[] = {{calls_.handle(), 0, ZMQ_POLLIN, 0},
                               {pushed_.handle(), 0, ZMQ_POLLIN, 0}};
    for (;;) {
      zmq::poll(items, 2, std::chrono::milliseconds(-1));
      zmq::message_t message;
      if (items[0].revents != 0 && calls_.recv(message, zmq::recv_flags::dontwait)) {
        Answer(message);
      }
      if (items[1].revents == 0) continue;
      for (int i = 0; i < 256 && pushed_.recv(message, zmq::recv_flags::dontwait); ++i) {
        if (message.size() == sizeof(Mark)) {
          ended_.insert(message.data<Mark>()->worker);
        } else {
          work_.Operate(message.to_string_view());
        }
      }
    }
  }

 private:
  void Answer(const zmq::message_t& message) {
    if (message.size() == 0) {
      calls_.send(zmq::buffer(work_.GetUsage().SerializeAsString()), zmq::send_flags::none);
      return;
    }
    const uint64_t answer = message.size() == sizeof(Mark)
                                ? ended_.erase(message.data<Mark>()->worker)
                                : work_.Operate(message.to_string_view());
    calls_.send(zmq::buffer(&answer, sizeof answer), zmq::send_flags::none);
  }

  zmq::context_t context_{1};
  zmq::socket_t calls_{context_, zmq::socket_type::rep};
  zmq::socket_t pushed_{context_, zmq::socket_type::pull};
  PeerWork work_;
  std::set<pid_t> ended_;  // whose flood has ended
};

class ZeroMqPath final : public Path {
 public:
  explicit ZeroMqPath(const std::string& socket) {
    calls_.connect(CallAddress(socket));
    pushed_.connect(PushAddress(socket));
  }

  void Operate(std::string_view payload) override {
    Check(Ask(zmq::buffer(payload)) == Sum(payload), "the sum is wrong");
  }

  void Flood(int64_t count) override {
    const std::string payload(kSmallPayload, 1);
    for (int64_t i = 0; i < count; ++i) pushed_.send(zmq::buffer(payload), zmq::send_flags::none);
    // Nothing comes back on a PUSH socket.
    const Mark mark{.worker = getpid()};
    pushed_.send(zmq::buffer(&mark, sizeof mark), zmq::send_flags::none);
    while (Ask(zmq::buffer(&mark, sizeof mark)) == 0) usleep(50);
  }

  v1::GetUsageReply GetUsage() override {
    v1::GetUsageReply usage;
    Check(usage.ParseFromString(Call(zmq::const_buffer()).to_string()), "no usage");
    return usage;
  }

 private:
  zmq::message_t Call(zmq::const_buffer request) {
    calls_.send(request, zmq::send_flags::none);
    zmq::message_t reply;
    Check(calls_.recv(reply).has_value(), "no reply");
    return reply;
  }
  uint64_t Ask(zmq::const_buffer request) { return *Call(request).data<uint64_t>(); }

  zmq::context_t context_{1};
  zmq::socket_t calls_{context_, zmq::socket_type::req};
  zmq::socket_t pushed_{context_, zmq::socket_type::push};
};

int Serve(const std::string& socket) {
  Pin(Side::kRuntime);
  Server server(socket);
  BecomeServer();
  server.Serve();
  return 0;
}

std::unique_ptr<Path> ConnectZeroMq(const std::string& socket) {
  return std::make_unique<ZeroMqPath>(socket);
}

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  using namespace runloop::benchmark;
  return MeasureSystems(argc, argv, {{"zeromq", Serve, ConnectZeroMq, 1'000'000}});
}

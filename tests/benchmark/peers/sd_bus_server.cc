// sd-bus peer to peer, without a bus daemon: the server runs everything from one sd-event loop.

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/peers/peer_server.h"
#include "runloop/tests/benchmark/processes.h"
#include "runloop/tests/benchmark/work.h"

namespace runloop::benchmark {
namespace {

constexpr char kObject[] = "/work";
constexpr char kInterface[] = "runloop.benchmark.Work";

void CheckBus(int result) { Check(result >= 0, absl::StrCat("sd-bus: ", std::strerror(-result))); }

sockaddr_un Address(const std::string& socket) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  Check(socket.size() < sizeof address.sun_path, "the path of the socket is too long");
  std::memcpy(address.sun_path, socket.data(), socket.size());
  return address;
}

// ---- the server ----

PeerWork& Work() {
  static PeerWork work;
  return work;
}

int OnOperate(sd_bus_message* message, void*, sd_bus_error*) {
  const void* data = nullptr;
  size_t size = 0;
  if (const int error = sd_bus_message_read_array(message, 'y', &data, &size); error < 0) {
    return error;
  }
  const uint64_t sum = Work().Operate({static_cast<const char*>(data), size});
  return sd_bus_reply_method_return(message, "t", sum);  // does nothing if none is expected
}

int OnGetUsage(sd_bus_message* message, void*, sd_bus_error*) {
  const v1::GetUsageReply usage = Work().GetUsage();
  return sd_bus_reply_method_return(message, "xx", usage.process_cpu_ns(), usage.operated());
}

const sd_bus_vtable kMethods[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Operate", "ay", "t", OnOperate, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("GetUsage", "", "xx", OnGetUsage, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

// A connection lives as long as the process.
int OnAccept(sd_event_source* source, int listening, uint32_t, void*) {
  const int fd = accept4(listening, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  sd_id128_t id;
  CheckBus(sd_id128_randomize(&id));
  sd_bus* bus = nullptr;
  CheckBus(sd_bus_new(&bus));
  CheckBus(sd_bus_set_fd(bus, fd, fd));
  CheckBus(sd_bus_set_server(bus, 1, id));
  CheckBus(sd_bus_set_anonymous(bus, 1));
  CheckBus(sd_bus_set_trusted(bus, 1));
  CheckBus(sd_bus_start(bus));
  CheckBus(sd_bus_add_object_vtable(bus, nullptr, kObject, kInterface, kMethods, nullptr));
  CheckBus(sd_bus_attach_event(bus, sd_event_source_get_event(source), SD_EVENT_PRIORITY_NORMAL));
  return 0;
}

int Serve(const std::string& socket) {
  Pin(Side::kRuntime);
  const int listening = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_un address = Address(socket);
  Check(bind(listening, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
            listen(listening, 16) == 0,
        "cannot listen");
  sd_event* event = nullptr;
  CheckBus(sd_event_new(&event));
  CheckBus(sd_event_add_io(event, nullptr, listening, EPOLLIN, OnAccept, nullptr));
  BecomeServer();
  CheckBus(sd_event_loop(event));
  return 0;
}

// ---- the worker ----

struct Unref {
  void operator()(sd_bus* bus) const { sd_bus_flush_close_unref(bus); }
  void operator()(sd_bus_message* message) const { sd_bus_message_unref(message); }
};
using Message = std::unique_ptr<sd_bus_message, Unref>;

class SdBusPath final : public Path {
 public:
  explicit SdBusPath(const std::string& socket) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_un address = Address(socket);
    Check(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0,
          "cannot connect");
    sd_bus* bus = nullptr;
    CheckBus(sd_bus_new(&bus));
    bus_.reset(bus);
    CheckBus(sd_bus_set_fd(bus, fd, fd));
    CheckBus(sd_bus_set_anonymous(bus, 1));
    CheckBus(sd_bus_set_trusted(bus, 1));
    CheckBus(sd_bus_start(bus));
  }

  void Operate(std::string_view payload) override {
    const Message reply = Call(MakeOperate(payload));
    uint64_t sum = 0;
    CheckBus(sd_bus_message_read(reply.get(), "t", &sum));
    Check(sum == Sum(payload), "the sum is wrong");
  }

  void Flood(int64_t count) override {
    constexpr int64_t kFlushed = 64;
    const std::string payload(kSmallPayload, 1);
    for (int64_t i = 1; i <= count; ++i) {
      const Message message = MakeOperate(payload);
      CheckBus(sd_bus_message_set_expect_reply(message.get(), 0));
      CheckBus(sd_bus_send(bus_.get(), message.get(), nullptr));
      if (i % kFlushed == 0 || i == count) CheckBus(sd_bus_flush(bus_.get()));
    }
    GetUsage();  // in order after them
  }

  v1::GetUsageReply GetUsage() override {
    const Message reply = Call(Make("GetUsage"));
    int64_t cpu = 0, operated = 0;
    CheckBus(sd_bus_message_read(reply.get(), "xx", &cpu, &operated));
    v1::GetUsageReply usage;
    usage.set_process_cpu_ns(cpu);
    usage.set_operated(operated);
    return usage;
  }

 private:
  Message Make(const char* method) {
    sd_bus_message* message = nullptr;
    CheckBus(
        sd_bus_message_new_method_call(bus_.get(), &message, nullptr, kObject, kInterface, method));
    return Message(message);
  }
  Message MakeOperate(std::string_view payload) {
    Message message = Make("Operate");
    CheckBus(sd_bus_message_append_array(message.get(), 'y', payload.data(), payload.size()));
    return message;
  }
  Message Call(const Message& message) {
    sd_bus_message* reply = nullptr;
    CheckBus(sd_bus_call(bus_.get(), message.get(), 0, nullptr, &reply));
    return Message(reply);
  }

  std::unique_ptr<sd_bus, Unref> bus_;
};

std::unique_ptr<Path> ConnectSdBus(const std::string& socket) {
  return std::make_unique<SdBusPath>(socket);
}

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  using namespace runloop::benchmark;
  return MeasureSystems(argc, argv, {{"sd_bus", Serve, ConnectSdBus, 150'000}});
}

#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runloop/client/connect.h"
#include "runloop/ipc/address.h"
#include "runloop/runtime/error.h"
#include "runloop/test/v1/test_operations.grpc.pb.h"
#include "runloop/v1/dispatcher.grpc.pb.h"

// runloop_soak_worker MODE SEED SECONDS stream|ring: one worker of the soak, which behaves or
// misbehaves in one way for so long; a client's session asks for a ring, or goes by the stream
// alone. Says `started` first. Ends with 0 if each of its dispatches had one of the outcomes that
// it may have.

namespace {

using runloop::Invocation;
using runloop::RuntimeContext;
using namespace runloop::test::v1;  // NOLINT(google-build-using-namespace): the test's messages
namespace v1 = runloop::v1;

constexpr char kService[] = "runloop.test.v1.TestOperations/";
constexpr size_t kWindow = 1000;
// The daemon is there all the time, but has fifty of these.
constexpr absl::Duration kPatience = absl::Minutes(1);
// More than the daemon takes.
constexpr size_t kOversize = size_t{3} << 20;

std::mt19937_64 random_source;  // NOLINT(cert-msc32-c,cert-msc51-cpp): seeded by the soak
std::chrono::steady_clock::time_point end_of_load;
bool asks_for_ring;

bool Goes() { return std::chrono::steady_clock::now() < end_of_load; }

size_t Random(size_t below) { return random_source() % below; }

[[noreturn]] void Fail(const std::string& what, const std::string& got) {
  std::cerr << "soak_worker: " << what << ": " << got << std::endl;
  std::_Exit(1);
}

RuntimeContext Connect(const std::string& mode) {
  absl::StatusOr<RuntimeContext> context = runloop::Connect(
      {.client_name = "soak-" + mode, .connect_timeout = kPatience, .ring = asks_for_ring});
  if (!context.ok()) Fail("connect", context.status().ToString());
  return *std::move(context);
}

void Expect(const absl::Status& outcome, std::initializer_list<absl::StatusCode> may) {
  if (outcome.ok() || absl::IsResourceExhausted(outcome)) return;  // full is always possible
  for (const absl::StatusCode code : may) {
    if (outcome.code() == code) return;
  }
  Fail("an outcome that it may not have", outcome.ToString());
}

void Await(const Invocation& invocation, std::initializer_list<absl::StatusCode> may) {
  const absl::Status outcome = invocation.Await(kPatience);
  if (runloop::ReasonOf(outcome) == v1::ERROR_REASON_STILL_RUNNING) {
    Fail("no outcome", outcome.ToString());
  }
  Expect(outcome, may);
}

EchoRequest Echo(size_t bytes) {
  EchoRequest request;
  request.set_text("soak");
  request.mutable_payload()->resize(bytes);
  return request;
}

// Dispatches one after the other; at most a window is unfinished.
void Flood(const std::string& mode, const std::function<Invocation(const RuntimeContext&)>& next,
           std::initializer_list<absl::StatusCode> may) {
  const RuntimeContext context = Connect(mode);
  std::deque<Invocation> unfinished;
  while (Goes()) {
    unfinished.push_back(next(context));
    if (unfinished.size() < kWindow) continue;
    Await(unfinished.front(), may);
    unfinished.pop_front();
  }
  for (const Invocation& invocation : unfinished) Await(invocation, may);
}

Invocation AsyncEcho(const RuntimeContext& context, const runloop::DispatchOptions& options = {}) {
  const std::string operation = absl::StrCat(kService, "Echo");
  if (Random(8) == 0) {
    return context.DispatchAsync<EchoReply>(operation, Echo(Random(2000)), options);
  }
  return context.DispatchAsync(operation, Echo(Random(200)), options);
}

void FloodMode() {
  Flood("flood", [](const RuntimeContext& c) { return AsyncEcho(c); }, {});
}

void CancelMode() {
  Flood("cancel",
        [](const RuntimeContext& context) {
          Invocation invocation = AsyncEcho(context);
          if (Random(2) == 0) invocation.Cancel();
          return invocation;
        },
        {absl::StatusCode::kCancelled});
}

void DeadlineMode() {
  Flood("deadline",
        [](const RuntimeContext& context) {
          return AsyncEcho(context, {.timeout = absl::Microseconds(Random(3000))});
        },
        {absl::StatusCode::kDeadlineExceeded});
}

// Operations that do not exist, requests that are too large, handlers that fail.
void RefusedMode() {
  const RuntimeContext context = Connect("refused");
  while (Goes()) {
    std::vector<Invocation> some;
    for (int i = 0; i < 20; ++i) {
      some.push_back(
          context.DispatchAsync(absl::StrCat(kService, "NoSuch", Random(1000)), Echo(100)));
      some.push_back(context.DispatchAsync(absl::StrCat(kService, "Throw"), ThrowRequest()));
      some.push_back(context.DispatchAsync(absl::StrCat(kService, "Drop"), DropRequest()));
    }
    some.push_back(context.DispatchAsync(absl::StrCat(kService, "Echo"), Echo(kOversize)));
    for (const Invocation& invocation : some) {
      Await(invocation, {absl::StatusCode::kUnimplemented, absl::StatusCode::kInternal,
                         absl::StatusCode::kAborted});
    }
  }
}

// Leaves some unfinished when it ends.
void DeferMode() {
  const RuntimeContext context = Connect("defer");
  while (Goes()) {
    std::vector<Invocation> some;
    for (int i = 0; i < 20; ++i) {
      some.push_back(
          context.DispatchAsync<DeferReply>(absl::StrCat(kService, "Defer"), DeferRequest()));
      if (Random(4) == 0) some.back().Cancel();
    }
    if (!Goes()) std::_Exit(0);
    for (const Invocation& invocation : some) Await(invocation, {absl::StatusCode::kCancelled});
  }
}

void BlockingMode() {
  const RuntimeContext context = Connect("blocking");
  while (Goes()) {
    const absl::Duration timeout = Random(3) == 0 ? absl::Microseconds(Random(2000)) : kPatience;
    const absl::StatusOr<EchoReply> reply = context.DispatchBlocking<EchoReply>(
        absl::StrCat(kService, "Echo"), Echo(Random(10000)), {.timeout = timeout});
    Expect(reply.status(), {absl::StatusCode::kDeadlineExceeded});
  }
}

// Sessions that come and go, some with work that nobody awaits.
void ReconnectMode() {
  while (Goes()) {
    const RuntimeContext context = Connect("reconnect");
    std::vector<Invocation> some;
    for (size_t i = Random(100); i > 0; --i) some.push_back(AsyncEcho(context));
    if (Random(2) == 0) continue;
    for (const Invocation& invocation : some) Await(invocation, {});
  }
}

std::string SocketPath() {
  const absl::StatusOr<runloop::Address> address = runloop::DefaultAddress();
  if (!address.ok()) Fail("address", address.status().ToString());
  return address->path;
}

std::shared_ptr<grpc::Channel> OpenChannel() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(-1);
  return grpc::CreateCustomChannel("unix:" + SocketPath(), grpc::InsecureChannelCredentials(),
                                   arguments);
}

// Plain calls: generated stubs, no session.
void UnaryMode() {
  while (Goes()) {
    const auto stub = TestOperations::NewStub(OpenChannel());
    for (int i = 0; i < 100 && Goes(); ++i) {
      grpc::ClientContext context;
      const bool hurry = Random(4) == 0;
      context.set_deadline(
          std::chrono::system_clock::now() +
          (hurry ? std::chrono::milliseconds(Random(3)) : std::chrono::minutes(1)));
      EchoReply reply;
      const grpc::Status status =
          stub->Echo(&context, Echo(Random(50) == 0 ? kOversize : Random(2000)), &reply);
      Expect(
          absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message()),
          {absl::StatusCode::kDeadlineExceeded});
    }
  }
}

// A session by the protocol's own messages.
class RawSession {
 public:
  RawSession()
      : stub_(v1::Dispatcher::NewStub(OpenChannel())), stream_(stub_->Session(&context_)) {}

  bool Hello() {
    v1::SessionRequest request;
    request.mutable_hello()->mutable_versions()->set_min(1);
    request.mutable_hello()->mutable_versions()->set_max(1);
    request.mutable_hello()->set_client_name("soak-raw");
    v1::SessionResponse response;
    return stream_->Write(request) && stream_->Read(&response);
  }
  bool Write(const v1::SessionRequest& request) { return stream_->Write(request); }
  // Says that this is all, and reads to the end.
  grpc::Status End() {
    stream_->WritesDone();
    v1::SessionResponse response;
    while (stream_->Read(&response)) {
    }
    return stream_->Finish();
  }
  void Cancel() { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  const std::unique_ptr<v1::Dispatcher::Stub> stub_;
  const std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>> stream_;
};

v1::Dispatch RawEcho(uint64_t id, size_t bytes) {
  v1::Dispatch dispatch;
  dispatch.set_invocation_id(id);
  dispatch.set_operation_name(absl::StrCat(kService, "Echo"));
  EchoRequest request = Echo(0);
  request.mutable_text()->resize(bytes, 'x');
  dispatch.set_request(request.SerializeAsString());
  dispatch.set_reply_wanted(true);
  return dispatch;
}

// Does not read its outcomes, until the daemon does not read it any more; then goes away.
void SlowMode() {
  while (Goes()) {
    RawSession session;
    if (!session.Hello()) Fail("slow", "no welcome");
    std::thread canceller([&] {
      std::this_thread::sleep_until(end_of_load);
      session.Cancel();
    });
    v1::SessionRequest request;
    uint64_t id = 0;
    do {
      request.Clear();
      for (int i = 0; i < 20; ++i) *request.add_dispatches() = RawEcho(++id, 10000);
    } while (session.Write(request));
    canceller.join();
    (void)session.End();
  }
}

std::string Noise(size_t bytes) {
  std::string noise(bytes, '\0');
  for (char& c : noise) c = static_cast<char>(Random(256));
  return noise;
}

// Breaks the rules of the session stream.
void MalformedMode() {
  while (Goes()) {
    RawSession session;
    v1::SessionRequest request;
    bool violation = true;
    const size_t kind = Random(8);
    if (kind != 0 && !session.Hello()) Fail("malformed", "no welcome");
    switch (kind) {
      case 0:  // no hello
      case 1:  // ids that do not rise
        *request.add_dispatches() = RawEcho(7, 10);
        *request.add_dispatches() = RawEcho(7, 10);
        break;
      case 2:
        request.mutable_hello()->set_client_name("again");
        break;
      case 3:
        for (uint64_t id = 1; id <= 300'000; ++id) request.add_cancels()->set_invocation_id(id);
        break;
      case 4:
        violation = false;
        for (uint64_t id = 1; id < 50; ++id) {
          *request.add_dispatches() = RawEcho(id, 10);
          request.mutable_dispatches()->rbegin()->set_request(Noise(Random(300)));
        }
        break;
      case 5:
        violation = false;
        for (uint64_t id = 1; id < 50; ++id) {
          *request.add_dispatches() = RawEcho(id * 1000, 10);
          request.mutable_dispatches()->rbegin()->set_operation_id(
              static_cast<uint32_t>(random_source()));
        }
        break;
      case 6:
        violation = false;
        *request.add_dispatches() = RawEcho(1, 10);
        request.mutable_dispatches()->rbegin()->mutable_timeout()->set_nanos(-5);
        request.mutable_dispatches()->rbegin()->mutable_timeout()->set_seconds(1LL << 60);
        break;
      default:  // more than a message may have
        request.mutable_hello()->set_client_name(std::string(kOversize, 'x'));
        break;
    }
    (void)session.Write(request);
    const grpc::Status end = session.End();
    if (end.ok() == violation) Fail(absl::StrCat("malformed ", kind), end.error_message());
  }
}

// Bytes that are no protocol, or that begin like one.
void GarbageMode() {
  const std::string path = SocketPath();
  while (Goes()) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address = {.sun_family = AF_UNIX};
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
      static constexpr const char* kBegins[] = {"", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "RUNLOOP1",
                                                "PRI * HT", "GET / HTTP/1.1\r\n\r\n"};
      const std::string bytes = kBegins[Random(5)] + Noise(Random(5000));
      (void)send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      // Waits for what the daemon does about it, but not for long.
      const timeval patience = {.tv_usec = 20'000};
      setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
      char answer[4096];
      while (recv(fd, answer, sizeof(answer), 0) > 0) {
      }
    }
    close(fd);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, void (*)()> modes = {
      {"flood", FloodMode},         {"cancel", CancelMode},   {"deadline", DeadlineMode},
      {"refused", RefusedMode},     {"defer", DeferMode},     {"blocking", BlockingMode},
      {"reconnect", ReconnectMode}, {"unary", UnaryMode},     {"slow", SlowMode},
      {"malformed", MalformedMode}, {"garbage", GarbageMode},
  };
  const std::string transport = argc == 5 ? argv[4] : "";
  if (argc != 5 || !modes.contains(argv[1]) || (transport != "stream" && transport != "ring")) {
    std::cerr << "usage: runloop_soak_worker MODE SEED SECONDS stream|ring" << std::endl;
    return 64;
  }
  asks_for_ring = transport == "ring";
  random_source.seed(std::strtoull(argv[2], nullptr, 10));
  end_of_load =
      std::chrono::steady_clock::now() +
      std::chrono::milliseconds(static_cast<int64_t>(std::strtod(argv[3], nullptr) * 1000));
  std::cout << "started" << std::endl;
  modes.at(argv[1])();
  return 0;
}

// What the other side puts into a session's rings, and changes while it is read: on the daemon's
// side all of a ring session with a runtime, on the worker's the reader and the books; and both
// reader and writer on memory of the heap, whose bounds the sanitizer knows. The first byte says
// which; the rest lies in the ring that is read. A thread of its own changes bytes, counters and
// wants all the time.

#include <sys/mman.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "runloop/client/open_session.h"
#include "runloop/daemon/completion_thread.h"
#include "runloop/daemon/ring_server.h"
#include "runloop/ipc/ring.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/external_loop.h"
#include "runloop/runtime/runtime.h"
#include "runloop/tests/testing/test_operations.h"

namespace runloop::daemon {
namespace {

constexpr uint64_t kMaxMessage = 16 << 10;
constexpr int kTurns = 24;

// Changes the memory that it is given, until it is taken away. Its choices need not be good.
class Mutator {
 public:
  Mutator() : thread_([this] { Run(); }) { thread_.detach(); }

  void Begin(RingHeader& header, RingCounters& read, uint8_t* bytes, size_t size, uint64_t seed) {
    header_ = &header;
    read_ = &read;
    bytes_ = bytes;
    size_ = size;
    state_ = seed | 1;
    runs_.store(true, std::memory_order_release);
  }
  void End() {
    runs_.store(false);
    while (busy_.load()) std::this_thread::yield();
  }

 private:
  uint64_t Random() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  void Run() {
    while (true) {
      busy_.store(true);
      if (runs_.load(std::memory_order_acquire)) {
        Change();
      }
      busy_.store(false);
      if (!runs_.load(std::memory_order_relaxed)) std::this_thread::yield();
    }
  }
  // As another process does, which knows nothing of atomics.
  __attribute__((no_sanitize("thread"))) void Change() {
    const uint64_t random = Random();
    switch (random % 8) {
      case 0:  // mostly a little, so that there is something to read
        read_->tail.fetch_add(random >> 32 & 0xFF);
        break;
      case 1:
        if ((random >> 8) % 64 == 0) read_->tail.store(Random());
        break;
      case 2:
        if ((random >> 8) % 64 == 0) header_->requests.head.store(Random());
        if ((random >> 16) % 64 == 0) header_->responses.head.store(Random());
        break;
      case 3:
        header_->worker_wants.store(static_cast<uint32_t>(random >> 40));
        header_->daemon_wants.store(static_cast<uint32_t>(random >> 8));
        break;
      case 4:  // the other side reads what is written
        header_->responses.head.store(header_->responses.tail.load());
        break;
      default:
        reinterpret_cast<volatile uint8_t*>(bytes_)[(random >> 16) % size_] =
            static_cast<uint8_t>(random >> 8);
    }
  }

  RingHeader* header_ = nullptr;
  RingCounters* read_ = nullptr;
  uint8_t* bytes_ = nullptr;
  size_t size_ = 0;
  uint64_t state_ = 1;
  std::atomic<bool> runs_{false}, busy_{false};
  std::thread thread_;
};

struct Owner final : RingOwner {
  void OnRing(std::shared_ptr<SessionRing>) override {}
  void OnRingEnd(absl::Status) override {}
};

// Made once.
struct Daemon {
  Daemon() {
    OperationRegistry operations;
    test_operations = TestOperations::Register(operations);
    auto external = std::make_unique<ExternalLoop>();
    loop = external.get();
    runtime = *Runtime::Create({.loop = std::move(external),
                                .operations = std::move(operations),
                                .log = [](LogSeverity, std::string_view) {}});
    const auto core = runtime->core();
    rings = *RingServer::Create({.terms = {.core = core,
                                           .operations = core->operations().List(),
                                           .max_message_bytes = kMaxMessage,
                                           .max_unfinished = 1000},
                                 .ring_bytes = kMinRingBytes,
                                 .completion = std::make_shared<CompletionThread>(),
                                 .max_arriving_bytes = 1 << 20,
                                 .max_role_arriving_bytes = 1 << 20});
    if (!core->AddIntake(rings).ok()) std::abort();
  }

  ExternalLoop* loop;
  std::shared_ptr<TestOperations> test_operations;
  std::unique_ptr<Runtime> runtime;
  std::shared_ptr<RingServer> rings;
};

void ReadAsDaemon(Mutator& mutator, std::string_view input, uint64_t seed) {
  static Daemon& daemon = *new Daemon;
  const auto core = daemon.runtime->core();
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0) std::abort();
  const UniqueFd worker(sockets[1]);
  const auto session = core->OpenSession({.peer = {.pid = 1}, .transport = "ring"});
  absl::StatusOr<RingServer::Attached> attached = daemon.rings->Attach(
      session, std::make_shared<Owner>(), std::make_shared<UniqueFd>(sockets[0]));
  if (!attached.ok()) std::abort();
  const RingMemory memory = *RingMemory::Map(std::move(attached->memory), attached->request_bytes,
                                             attached->response_bytes);
  RingHeader& header = memory.header();
  uint8_t* const bytes = reinterpret_cast<uint8_t*>(&header) + internal::kBufferPage;
  const size_t size = std::min(input.size(), memory.request_bytes());
  std::memcpy(bytes, input.data(), size);
  header.requests.tail.store(size);
  // One that may be resumed keeps what it has told.
  daemon.rings->Start(attached->ring, std::make_unique<SessionProtocol>(daemon.rings->terms(),
                                                                        session, seed % 2 == 0));
  mutator.Begin(header, header.requests, bytes, memory.request_bytes(), seed);
  for (int i = 0; i < kTurns; ++i) daemon.loop->Drain();
  mutator.End();
  daemon.rings->Close(*attached->ring)->End();
  while (daemon.loop->Drain()) {
  }
  daemon.test_operations->LetGo();
  const Runtime::Snapshot snapshot = core->GetSnapshot();
  const Ledger::Counts& ledger = snapshot.ledger;
  if (ledger.queued != 0 || ledger.admitted != ledger.succeeded + ledger.failed + ledger.cancelled +
                                                   ledger.expired + ledger.superseded +
                                                   ledger.abandoned + ledger.deferred) {
    std::fprintf(stderr, "%s\n", ledger.ToString().c_str());
    std::abort();
  }
}

void ReadAsWorker(Mutator& mutator, std::string_view input, uint64_t seed) {
  const RingMemory memory = *RingMemory::Create(kMinRingBytes, kMinRingBytes);
  RingHeader& header = memory.header();
  uint8_t* const bytes =
      reinterpret_cast<uint8_t*>(&header) + internal::kBufferPage + memory.request_bytes();
  const size_t size = std::min(input.size(), memory.response_bytes());
  std::memcpy(bytes, input.data(), size);
  header.responses.tail.store(size);
  v1::Welcome welcome;
  welcome.set_session_id("fuzzed");
  internal::OpenSession session(welcome);
  for (uint64_t id = 1; id <= 20; ++id) {
    internal::RequestWriter::Dispatch dispatch;
    dispatch.invocation_id = id;
    dispatch.operation_name = "a.B/C";
    const auto invocation = std::make_shared<internal::RemoteInvocation>(nullptr, id % 2 == 0);
    invocation->id = id;
    if (!session.Add({&invocation, 1}, {&dispatch, 1}).ok()) std::abort();
  }
  RingEnd end = memory.NewEnd(RingEnd::Side::kWorker, kMaxMessage);
  mutator.Begin(header, header.responses, bytes, memory.response_bytes(), seed);
  v1::SessionResponse response;
  for (int i = 0; i < kTurns; ++i) {
    if (auto outgoing = session.NextOutgoing(); outgoing.has_value()) {
      std::vector<std::string_view> pieces;
      outgoing->message->AppendPieces(pieces);
      if (!end.writer().Write(pieces).ok()) break;
      session.Sent(true);
      session.Written();
    }
    const absl::StatusOr<std::optional<std::string_view>> message = end.reader().Next();
    (void)end.TakeBell();
    if (!message.ok() || !end.writer().Flush().ok()) break;
    if (!message->has_value()) {
      (void)end.AnnounceSleep();
      continue;
    }
    if (!response.ParseFromArray((*message)->data(), static_cast<int>((*message)->size()))) break;
    internal::OpenSession::Finished finished;
    if (!session.Receive(response, finished).ok()) break;
  }
  mutator.End();
}

void ReadAndWriteHeap(Mutator& mutator, std::string_view input, uint64_t seed) {
  struct Memory {
    RingHeader header;
    std::unique_ptr<uint8_t[]> requests{new uint8_t[kMinRingBytes]()};
    std::unique_ptr<uint8_t[]> responses{new uint8_t[kMinRingBytes]()};
  };
  const auto memory = std::make_unique<Memory>();
  RingHeader& header = memory->header;
  const size_t size = std::min(input.size(), kMinRingBytes);
  std::memcpy(memory->requests.get(), input.data(), size);
  header.requests.tail.store(size);
  RingReader reader(header.requests, {memory->requests.get(), kMinRingBytes}, kMaxMessage);
  RingWriter writer(header.responses, {memory->responses.get(), kMinRingBytes});
  mutator.Begin(header, header.requests, memory->requests.get(), kMinRingBytes, seed);
  const std::string message(1 + seed % (2 * kMinRingBytes), 'x');
  for (int i = 0; i < kTurns; ++i) {
    const absl::StatusOr<std::optional<std::string_view>> read = reader.Next();
    if (!read.ok()) break;
    if (read->has_value() && (*read)->size() > kMaxMessage) std::abort();
    const std::string_view piece = message;
    const absl::Status wrote = writer.left() > 0 ? writer.Flush() : writer.Write({&piece, 1});
    if (!wrote.ok()) break;
    (void)reader.TakeMadeRoom();
  }
  mutator.End();
}

}  // namespace
}  // namespace runloop::daemon

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace runloop::daemon;
  if (size < 9) return 0;
  static Mutator& mutator = *new Mutator;
  uint64_t seed;
  std::memcpy(&seed, data + 1, sizeof(seed));
  const std::string_view input(reinterpret_cast<const char*>(data) + 9, size - 9);
  switch (data[0] % 3) {
    case 0:
      ReadAsDaemon(mutator, input, seed);
      break;
    case 1:
      ReadAsWorker(mutator, input, seed);
      break;
    default:
      ReadAndWriteHeap(mutator, input, seed);
  }
  return 0;
}

// What a peer of the side channel sends, through the framing and the handling of requests. Whatever
// it sends, nothing is read out of bounds, and nothing is left when its session has ended.

#include <fcntl.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "runloop/daemon/session_tokens.h"
#include "runloop/daemon/side_channel_requests.h"
#include "runloop/ipc/side_channel_frame.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/runtime.h"

namespace runloop::daemon {
namespace {

const PeerIdentity kPeer{.pid = 100, .uid = 1000};

// Of a frame's message, the two secrets that no fuzzer guesses.
std::string WithSecrets(const std::string& message, const Session& own, const Session& other,
                        const std::string& token) {
  v1::SideChannelRequest request;
  if (!request.ParseFromString(message)) return message;
  if (request.has_attach_session() && request.attach_session().session_id() == "own") {
    request.mutable_attach_session()->set_session_id(own.info().id);
    if (request.attach_session().token() == "token") {
      request.mutable_attach_session()->set_token(token);
    }
  } else if (request.has_grant_buffer() && request.grant_buffer().session_id() == "other") {
    request.mutable_grant_buffer()->set_session_id(other.info().id);
  } else {
    return message;
  }
  return request.SerializeAsString();
}

// What operations of the session do with what a request refers to.
void Open(internal::BufferRegistry& buffers, const Session& session, const std::string& message,
          std::vector<Buffer>& held) {
  v1::BufferRef ref;
  if (!ref.ParseFromString(message)) return;
  absl::StatusOr<Buffer> buffer = buffers.Open(session, ref);
  if (buffer.ok() && buffer->size() > 0) {
    volatile uint8_t sink = buffer->data().front();
    sink = buffer->data().back();
    if (buffer->writable()) buffer->mutable_data().back() = sink;
    held.push_back(*std::move(buffer));
  }
  if (const auto fd = buffers.TakeDescriptor(session, ref.buffer()); fd.ok() && !fd->valid()) {
    abort();
  }
}

// Made once: what a run leaves behind is in its registry alone.
struct Sessions {
  Sessions()
      : runtime(*Runtime::Create({.thread = RuntimeThread::kSpawn})),
        own(runtime->core()->OpenSession({.peer = kPeer, .transport = "stream"})),
        other(runtime->core()->OpenSession({.peer = kPeer, .transport = "stream"})),
        token(tokens.Add(own, nullptr)) {
    tokens.Add(other, nullptr);
  }

  const std::unique_ptr<Runtime> runtime;
  const std::shared_ptr<Session> own, other;
  SessionTokens tokens;
  const std::string token;
};

void Run(std::string_view input) {
  static const Sessions& sessions = *new Sessions;
  const std::shared_ptr<Session>&own = sessions.own, &other = sessions.other;
  const auto buffers = std::make_shared<internal::BufferRegistry>(
      BufferBounds{.total = {.items = 64, .bytes = 1 << 20},
                   .user = {.items = 32, .bytes = 1 << 20},
                   .session = {.items = 16, .bytes = 1 << 18}},
      0);
  const SideChannelServices services{
      .add_role_socket = [](UniqueFd, const std::string&) { return absl::OkStatus(); },
      .remove_role_socket = [](int) {},
      .buffers = buffers.get(),
      .sessions = &sessions.tokens};
  {
    SideChannelRequests requests(services, kPeer, std::make_shared<UniqueFd>());
    SideChannelDecoder decoder;
    std::vector<Buffer> held;
    bool open = true;
    while (open && !input.empty()) {
      // The first byte of a piece says how long it is and how many descriptors come with it.
      const auto header = static_cast<uint8_t>(input[0]);
      const std::string_view piece = input.substr(1, 1 + (header >> 2) * 8);
      input.remove_prefix(std::min(input.size(), 1 + piece.size()));
      decoder.Append(piece);
      while (open) {
        const absl::StatusOr<std::optional<std::string>> message = decoder.Next();
        open = message.ok();
        if (!open || !message->has_value()) break;
        std::vector<UniqueFd> fds;
        for (int i = 0; i < (header & 3); ++i) fds.emplace_back(::open("/dev/null", O_RDONLY));
        const SideChannelRequests::Answer answer =
            requests.Handle(WithSecrets(**message, *own, *other, sessions.token), std::move(fds));
        open = !answer.ends;
        if (answer.response.has_buffer() != (answer.memory != nullptr)) abort();
        Open(*buffers, *own, **message, held);
        Open(*buffers, *other, **message, held);
        if (held.size() > 8) held.clear();
      }
    }
  }
  for (const auto& session : {own, other}) {
    buffers->EndSession(*session);
  }
  // Descriptors count until they are closed, on another thread.
  while (buffers->GetBounds()[0].held.items != 0) std::this_thread::yield();
  if (buffers->GetBounds()[0].held.bytes != 0) abort();
}

}  // namespace
}  // namespace runloop::daemon

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  runloop::daemon::Run({reinterpret_cast<const char*>(data), size});
  return 0;
}

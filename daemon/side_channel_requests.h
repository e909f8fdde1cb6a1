#ifndef RUNLOOP_DAEMON_SIDE_CHANNEL_REQUESTS_H_
#define RUNLOOP_DAEMON_SIDE_CHANNEL_REQUESTS_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runloop/daemon/ring_server.h"
#include "runloop/daemon/session_tokens.h"
#include "runloop/runtime/buffer_registry.h"
#include "runloop/runtime/session.h"
#include "runloop/runtime/unique_fd.h"
#include "runloop/v1/side_channel.pb.h"

namespace runloop::daemon {

// What the requests of side channels act on. All of it outlives them.
struct SideChannelServices {
  // Accepts on `listening` under `role` from now on.
  std::function<absl::Status(UniqueFd listening, const std::string& role)> add_role_socket;
  // Stops accepting on it; connections that it accepted stay.
  std::function<void(int fd)> remove_role_socket;
  internal::BufferRegistry* buffers = nullptr;
  const SessionTokens* sessions = nullptr;
  RingServer* rings = nullptr;  // null: there are none
};

// The requests of one side channel, whose frames somebody else reads and writes. One thread.
// Destruction takes back the role sockets; buffers belong to the session.
//
// What is distrusted: the whole message and every descriptor. A descriptor that the request does
// not ask for is closed, and counted; nothing waits until it is closed.
class SideChannelRequests {
 public:
  // `channel` is its socket.
  SideChannelRequests(const SideChannelServices& services, PeerIdentity peer,
                      std::shared_ptr<const UniqueFd> channel)
      : services_(services), peer_(std::move(peer)), channel_(std::move(channel)) {}
  ~SideChannelRequests();
  SideChannelRequests(const SideChannelRequests&) = delete;
  SideChannelRequests& operator=(const SideChannelRequests&) = delete;

  struct Answer {
    v1::SideChannelResponse response;
    // The descriptors that ride along, and what keeps them open.
    std::vector<int> fds;
    std::shared_ptr<internal::BufferMemory> memory;
    UniqueFd ring_memory;
    bool ends = false;  // the channel ends once it is sent
  };
  Answer Handle(std::string_view message, std::vector<UniqueFd> fds);

  // It is the side channel of a session.
  bool attached() const { return attached_; }
  // A ring was given to its session: what arrives on it is no frame, but calls Knock.
  bool has_ring() const { return ring_ != nullptr; }
  // The first one says that the worker has the ring.
  void Knock();

 private:
  absl::Status Do(const v1::SideChannelRequest& request, std::vector<UniqueFd>& fds,
                  Answer& answer);
  absl::Status AddRoleSocket(const v1::AddRoleSocket& request, std::vector<UniqueFd>& fds);
  absl::Status Attach(const v1::AttachSession& request);
  // FAILED_PRECONDITION, ABORTED (SESSION_ENDED).
  absl::StatusOr<std::shared_ptr<Session>> AttachedSession() const;
  absl::Status AttachRing(const std::shared_ptr<Session>& session, Answer& answer);
  static void Give(internal::BufferRegistry::Found found, Answer& answer);

  const SideChannelServices& services_;
  const PeerIdentity peer_;
  const std::shared_ptr<const UniqueFd> channel_;
  bool attached_ = false;
  std::weak_ptr<Session> session_;
  std::shared_ptr<RingOwner> ring_owner_;
  std::shared_ptr<SessionRing> ring_;
  bool ring_begun_ = false;
  absl::Time next_knock_ = absl::InfinitePast();
  std::vector<int> role_sockets_;
};

}  // namespace runloop::daemon

#endif  // RUNLOOP_DAEMON_SIDE_CHANNEL_REQUESTS_H_

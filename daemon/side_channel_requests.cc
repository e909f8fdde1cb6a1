#include "runloop/daemon/side_channel_requests.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "runloop/ipc/unix_socket.h"
#include "runloop/runtime/clock.h"
#include "runloop/runtime/error.h"

namespace runloop::daemon {
namespace {

using internal::BufferRegistry;

constexpr size_t kMaxRoleSockets = 64;  // of one channel
constexpr size_t kMaxRole = 64;

bool IsRole(std::string_view role) {
  return !role.empty() && role.size() <= kMaxRole && absl::ascii_islower(role[0]) &&
         std::all_of(role.begin(), role.end(), [](char c) {
           return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '.' || c == '_' ||
                  c == '-';
         });
}

absl::Status Invalid(const std::string& message) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST, message);
}

absl::Status CheckOneDescriptor(const std::vector<UniqueFd>& fds) {
  if (fds.size() == 1) return absl::OkStatus();
  return Invalid(absl::StrCat("exactly one descriptor rides along, not ", fds.size()));
}

}  // namespace

SideChannelRequests::~SideChannelRequests() {
  if (ring_begun_) services_.rings->ChannelClosed(ring_);
  for (const int role_socket : role_sockets_) services_.remove_role_socket(role_socket);
}

SideChannelRequests::Answer SideChannelRequests::Handle(std::string_view message,
                                                        std::vector<UniqueFd> fds) {
  Answer answer;
  v1::SideChannelRequest request;
  const absl::Status status =
      request.ParseFromArray(message.data(), static_cast<int>(message.size()))
          ? Do(request, fds, answer)
          : Invalid("the frame holds no SideChannelRequest");
  // What was taken is not valid any more.
  std::erase_if(fds, [](const UniqueFd& fd) { return !fd.valid(); });
  services_.buffers->Refuse(peer_, std::move(fds));
  *answer.response.mutable_status() = ToProto(status);
  // A worker with a role may do nothing here but use its session.
  if (!peer_.role.empty() && !attached_) answer.ends = true;
  return answer;
}

absl::Status SideChannelRequests::Do(const v1::SideChannelRequest& request,
                                     std::vector<UniqueFd>& fds, Answer& answer) {
  switch (request.request_case()) {
    case v1::SideChannelRequest::kAddRoleSocket: {
      absl::Status status = AddRoleSocket(request.add_role_socket(), fds);
      if (!peer_.role.empty()) answer.ends = true;
      return status;
    }
    case v1::SideChannelRequest::kAttachSession: {
      absl::Status status = Attach(request.attach_session());
      answer.ends = !status.ok();
      return status;
    }
    case v1::SideChannelRequest::REQUEST_NOT_SET:
      return MakeError(absl::StatusCode::kUnimplemented, v1::ERROR_REASON_INVALID_REQUEST,
                       "the side channel request is empty or of a later version");
    default:
      break;
  }
  const absl::StatusOr<std::shared_ptr<Session>> session = AttachedSession();
  if (!session.ok()) return session.status();
  BufferRegistry& buffers = *services_.buffers;
  switch (request.request_case()) {
    case v1::SideChannelRequest::kCreateBuffer: {
      absl::StatusOr<BufferRegistry::Found> made =
          buffers.Create(*session, request.create_buffer().size());
      if (made.ok()) Give(*std::move(made), answer);
      return made.status();
    }
    case v1::SideChannelRequest::kOpenBuffer: {
      absl::StatusOr<BufferRegistry::Found> found =
          buffers.Find(**session, request.open_buffer().buffer());
      if (found.ok()) Give(*std::move(found), answer);
      return found.status();
    }
    case v1::SideChannelRequest::kReleaseBuffer:
      return buffers.Release(**session, request.release_buffer().buffer());
    case v1::SideChannelRequest::kGrantBuffer: {
      const v1::GrantBuffer& grant = request.grant_buffer();
      const absl::StatusOr<std::shared_ptr<Session>> to =
          services_.sessions->Find(grant.session_id());
      if (!to.ok()) return to.status();
      return buffers.Grant(**session, grant.buffer(), *to, grant.writable());
    }
    case v1::SideChannelRequest::kSendDescriptor: {
      if (absl::Status one = CheckOneDescriptor(fds); !one.ok()) return one;
      const absl::StatusOr<uint64_t> id = buffers.AddDescriptor(*session, std::move(fds[0]));
      if (id.ok()) answer.response.set_descriptor_id(*id);
      return id.status();
    }
    case v1::SideChannelRequest::kAttachRing:
      return AttachRing(*session, answer);
    default:
      return absl::OkStatus();
  }
}

void SideChannelRequests::Knock() {
  if (!std::exchange(ring_begun_, true)) return ring_owner_->OnRing(ring_);
  // One of ours knocks after milliseconds.
  constexpr absl::Duration kBetween = absl::Milliseconds(1);
  if (Clock::Monotonic()->Now() < next_knock_) return;
  services_.rings->Knock(*ring_);
  next_knock_ = Clock::Monotonic()->Now() + kBetween;
}

absl::Status SideChannelRequests::AttachRing(const std::shared_ptr<Session>& session,
                                             Answer& answer) {
  if (services_.rings == nullptr || ring_owner_ == nullptr) {
    return absl::UnimplementedError("no ring was chosen for this session: use its stream");
  }
  absl::StatusOr<RingServer::Attached> made =
      services_.rings->Attach(session, ring_owner_, channel_);
  if (!made.ok()) {
    session->SetTransport(
        {.name = "stream",
         .why = absl::StrCat("there was no room for a ring: ", made.status().message())});
    return made.status();
  }
  ring_ = std::move(made->ring);
  answer.response.mutable_ring()->set_request_bytes(made->request_bytes);
  answer.response.mutable_ring()->set_response_bytes(made->response_bytes);
  answer.ring_memory = std::move(made->memory);
  answer.fds = {answer.ring_memory.get(), made->bell};
  return absl::OkStatus();
}

absl::Status SideChannelRequests::AddRoleSocket(const v1::AddRoleSocket& request,
                                                std::vector<UniqueFd>& fds) {
  if (!peer_.role.empty()) {
    return MakeError(absl::StatusCode::kPermissionDenied, v1::ERROR_REASON_NOT_ALLOWED,
                     absl::StrCat("a worker with the role '", peer_.role,
                                  "' cannot add role sockets; connect to the main socket"),
                     {{"role", peer_.role}});
  }
  if (!IsRole(request.role())) {
    return Invalid("a role is 1 to 64 characters of [a-z0-9._-], the first a letter");
  }
  if (absl::Status one = CheckOneDescriptor(fds); !one.ok()) return one;
  if (absl::Status checked = CheckListeningUnixSocket(fds[0].get()); !checked.ok()) {
    return Invalid(std::string(checked.message()));
  }
  if (role_sockets_.size() >= kMaxRoleSockets) {
    return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUEUE_FULL,
                     absl::StrCat("a side channel holds at most ", kMaxRoleSockets,
                                  " role sockets; open another"));
  }
  const int fd = fds[0].get();
  if (absl::Status added = services_.add_role_socket(std::move(fds[0]), request.role());
      !added.ok()) {
    return added;
  }
  role_sockets_.push_back(fd);
  return absl::OkStatus();
}

absl::Status SideChannelRequests::Attach(const v1::AttachSession& request) {
  if (attached_) {
    return absl::FailedPreconditionError("a side channel attaches to one session, once");
  }
  absl::StatusOr<SessionTokens::Attached> session =
      services_.sessions->Attach(request.session_id(), request.token(), peer_);
  if (!session.ok()) return session.status();
  session_ = session->session;
  ring_owner_ = std::move(session->ring_owner);
  attached_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Session>> SideChannelRequests::AttachedSession() const {
  if (!attached_) {
    return absl::FailedPreconditionError("the side channel is of no session: send AttachSession");
  }
  std::shared_ptr<Session> session = session_.lock();
  if (session != nullptr && !session->ended()) return session;
  return MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                   "the session has ended");
}

void SideChannelRequests::Give(BufferRegistry::Found found, Answer& answer) {
  v1::BufferInfo& info = *answer.response.mutable_buffer();
  info.set_buffer(found.id);
  info.set_size(found.memory->size());
  info.set_writable(found.writable);
  info.set_owned(found.owned);
  answer.fds = {found.memory->fd()};
  answer.memory = std::move(found.memory);
}

}  // namespace runloop::daemon

#include "runloop/runtime/buffer_registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runloop/runtime/error.h"

namespace runloop::internal {
namespace {

// How long it is not looked again who holds most.
constexpr absl::Duration kLargestAge = absl::Milliseconds(10);

// Who is counted together for what it sends.
std::string SenderOf(const PeerIdentity& peer) {
  return peer.role.empty() ? absl::StrCat("process ", peer.pid) : HolderOf(peer);
}

std::string InWords(const Session::Info& info) {
  return absl::StrCat("session ", info.id, " of '", info.client_name, "'",
                      info.peer.pid != 0 ? absl::StrCat(" (process ", info.peer.pid, ")") : "");
}

}  // namespace

BufferRegistry::BufferRegistry(const BufferBounds& bounds, uint64_t first_id)
    : bounds_(bounds),
      total_(std::make_shared<Account>("runtime", bounds.total)),
      last_id_(first_id) {}

BufferRegistry::~BufferRegistry() { EndAll(); }

absl::Status BufferRegistry::Unknown(uint64_t id) {
  CountRefused(1);
  return MakeError(absl::StatusCode::kNotFound, v1::ERROR_REASON_UNKNOWN_BUFFER,
                   absl::StrCat("buffer ", id,
                                " names nothing that this session may use so: it was released, or "
                                "was never given here"),
                   {{"buffer", absl::StrCat(id)}});
}

std::shared_ptr<Account> BufferRegistry::UserOf(const Session& session) {
  if (session.info().in_process) return nullptr;
  return AccountOf(users_, HolderOf(session.info().peer), bounds_.user);
}

std::shared_ptr<Account> BufferRegistry::AccountOf(Accounts& accounts, const std::string& holder,
                                                   const Bound& bound) {
  absl::erase_if(accounts, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<Account>& known = accounts[holder];
  std::shared_ptr<Account> account = known.lock();
  if (account == nullptr) {
    account = std::make_shared<Account>(holder, bound);
    known = account;
  }
  return account;
}

absl::StatusOr<BufferRegistry::Holdings*> BufferRegistry::HoldingsOf(const Session& session) {
  if (session.ended()) {
    return MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                     "the session has ended", {{"session", session.info().id}});
  }
  const auto found = sessions_.find(&session);
  if (found != sessions_.end()) return &found->second;
  const Session::Info& info = session.info();
  Holdings holdings{
      .account = std::make_shared<Account>(absl::StrCat("session ", info.id),
                                           info.in_process ? bounds_.total : bounds_.session),
      .user = UserOf(session),
      .name = InWords(info),
      .role = info.peer.role};
  return &sessions_.emplace(&session, std::move(holdings)).first->second;
}

absl::StatusOr<BufferCharge> BufferRegistry::Charge(const Holdings& holdings, int64_t items,
                                                    int64_t bytes) {
  for (const Account* account : {holdings.account.get(), holdings.user.get(), total_.get()}) {
    if (account != nullptr && !account->Fits(items, bytes)) return Full(*account, holdings, bytes);
  }
  return BufferCharge({holdings.account, holdings.user, total_}, items, bytes);
}

absl::Status BufferRegistry::Full(const Account& account, const Holdings& asks, int64_t bytes) {
  CountRefused(1);
  const Bound held = account.held(), bound = account.bound();
  const bool own = &account == asks.account.get();
  const std::string who = own                        ? "the session"
                          : &account == total_.get() ? "the runtime"
                                                     : account.holder();
  if (bytes > bound.bytes) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_BUFFERS_FULL,
        absl::StrCat("a buffer of ", bytes, " bytes, and ", who, " may have ", bound.bytes,
                     " in buffers: it can never fit; raise the bound, or ask for less"),
        {{"bound", own ? "session" : account.holder()},
         {"limit", absl::StrCat(bound.bytes, " bytes")}});
  }
  const std::string holder = own ? asks.name : LargestHolder(account, asks);
  return MakeError(
      absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_BUFFERS_FULL,
      absl::StrCat(who, " has ", held.items, " of ", bound.items, " buffers with ", held.bytes,
                   " of ", bound.bytes, " bytes, and one of ", bytes, " more does not fit",
                   holder.empty() ? "" : absl::StrCat("; most are of ", holder), "; release some"),
      {{"bound", own ? "session" : account.holder()},
       {"limit", held.items + 1 > bound.items ? absl::StrCat(bound.items, " buffers")
                                              : absl::StrCat(bound.bytes, " bytes")},
       {"holder", holder}});
}

std::string BufferRegistry::LargestHolder(const Account& among, const Holdings& asks) {
  const absl::Time now = absl::Now();
  absl::erase_if(largest_,
                 [&](const auto& entry) { return now - entry.second.looked >= kLargestAge; });
  const auto [known, unknown] = largest_.try_emplace(among.holder());
  if (unknown) {
    known->second.looked = now;
    int64_t most = 0;
    for (const auto& [session, holdings] : sessions_) {
      if (&among != total_.get() && holdings.user.get() != &among) continue;
      const int64_t bytes = holdings.account->held().bytes;
      if (bytes > most) {
        most = bytes;
        known->second.name = holdings.name;
      }
    }
  }
  const std::string& name = known->second.name;
  // Who came in by a role is told nothing of others.
  if (name.empty() || asks.role.empty() || name == asks.name) return name;
  return "another session";
}

absl::StatusOr<BufferCharge> BufferRegistry::Reserve(const Session& session, int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  const absl::StatusOr<Holdings*> holdings = HoldingsOf(session);
  if (!holdings.ok()) return holdings.status();
  return Charge(**holdings, 0, bytes);
}

absl::StatusOr<BufferRegistry::Found> BufferRegistry::Create(
    const std::shared_ptr<Session>& session, uint64_t size) {
  if (size == 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_REQUEST,
                     "a buffer has at least one byte");
  }
  const bool local = session->info().in_process;
  // Above any bound, and below what rounding overflows.
  size = std::min<uint64_t>(size, uint64_t{1} << 62);
  const uint64_t bytes = local ? size : (size + kBufferPage - 1) / kBufferPage * kBufferPage;
  absl::StatusOr<BufferCharge> charge = [&]() -> absl::StatusOr<BufferCharge> {
    absl::MutexLock lock(&mutex_);
    const absl::StatusOr<Holdings*> holdings = HoldingsOf(*session);
    if (!holdings.ok()) return holdings.status();
    return Charge(**holdings, 1, static_cast<int64_t>(bytes));
  }();
  if (!charge.ok()) return charge.status();
  absl::StatusOr<std::shared_ptr<BufferMemory>> memory =
      local ? BufferMemory::CreateLocal(bytes, *std::move(charge))
            : BufferMemory::CreateShared(bytes, *std::move(charge));
  if (!memory.ok()) {
    CountRefused(1);
    return memory.status();
  }
  absl::MutexLock lock(&mutex_);
  const absl::StatusOr<Holdings*> holdings = HoldingsOf(*session);
  if (!holdings.ok()) return holdings.status();
  const uint64_t id = ++last_id_;
  (*holdings)->buffers.emplace(id, Entry{.memory = *memory});
  return Found{.id = id, .memory = *std::move(memory), .writable = true, .owned = true};
}

absl::StatusOr<BufferRegistry::Found> BufferRegistry::Find(const Session& session, uint64_t id) {
  absl::MutexLock lock(&mutex_);
  const auto holdings = sessions_.find(&session);
  if (holdings == sessions_.end()) return Unknown(id);
  const auto found = holdings->second.buffers.find(id);
  if (found == holdings->second.buffers.end()) return Unknown(id);
  const Entry& entry = found->second;
  return Found{.id = id,
               .memory = entry.memory,
               .writable = entry.writable,
               .owned = entry.owner == nullptr};
}

absl::StatusOr<Buffer> BufferRegistry::Open(const Session& session, v1::BufferRef ref) {
  return OpenPiece(std::move(ref), [&](uint64_t id) -> absl::StatusOr<BufferView> {
    absl::StatusOr<Found> found = Find(session, id);
    if (!found.ok()) return found.status();
    return BufferMemory::Hold(found->memory, id, found->writable);
  });
}

void BufferRegistry::Drop(Holdings& holdings, const Session& session, uint64_t id, Freed& freed) {
  const auto found = holdings.buffers.find(id);
  Entry entry = std::move(found->second);
  holdings.buffers.erase(found);
  if (entry.owner != nullptr) {
    const auto owner = sessions_.find(entry.owner);
    if (owner != sessions_.end()) std::erase(owner->second.buffers[id].granted, &session);
  } else {
    for (const Session* const other : entry.granted) {
      const auto grantee = sessions_.find(other);
      if (grantee != sessions_.end()) grantee->second.buffers.erase(id);
    }
    entry.memory->NoteReleased();
  }
  freed.push_back(std::move(entry.memory));
}

absl::Status BufferRegistry::Release(const Session& session, uint64_t id) {
  Freed freed;
  {
    absl::MutexLock lock(&mutex_);
    const auto holdings = sessions_.find(&session);
    if (holdings == sessions_.end() || !holdings->second.buffers.contains(id)) return Unknown(id);
    Drop(holdings->second, session, id, freed);
  }
  reaper_.Free(std::move(freed));
  return absl::OkStatus();
}

absl::Status BufferRegistry::Grant(const Session& owner, uint64_t id,
                                   const std::shared_ptr<Session>& to, bool writable) {
  absl::MutexLock lock(&mutex_);
  const auto holdings = sessions_.find(&owner);
  if (holdings == sessions_.end()) return Unknown(id);
  const auto found = holdings->second.buffers.find(id);
  if (found == holdings->second.buffers.end() || found->second.owner != nullptr) {
    return Unknown(id);
  }
  if (to.get() == &owner) return absl::OkStatus();
  const std::shared_ptr<BufferMemory> memory = found->second.memory;
  if (!memory->shared()) {
    return absl::FailedPreconditionError(
        "a buffer that was made in the host's own process cannot be granted");
  }
  // May move the map's entries.
  const absl::StatusOr<Holdings*> grantee = HoldingsOf(*to);
  if (!grantee.ok()) return grantee.status();
  Entry& entry = sessions_.find(&owner)->second.buffers.find(id)->second;
  const auto known = (*grantee)->buffers.find(id);
  if (known != (*grantee)->buffers.end() && (known->second.writable || !writable)) {
    return absl::OkStatus();
  }
  if (known == (*grantee)->buffers.end() && entry.granted.size() >= kMaxGrants) {
    CountRefused(1);
    return MakeError(
        absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_BUFFERS_FULL,
        absl::StrCat("the buffer is granted to ", kMaxGrants, " sessions, as many as it may be"),
        {{"bound", "grants"}, {"limit", absl::StrCat(kMaxGrants)}});
  }
  if (absl::Status sealed = writable ? memory->SealForWriters() : memory->SealForReaders();
      !sealed.ok()) {
    CountRefused(1);
    return sealed;
  }
  (*grantee)->buffers[id] = Entry{.memory = memory, .writable = writable, .owner = &owner};
  entry.granted.push_back(to.get());
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> BufferRegistry::AddDescriptor(const std::shared_ptr<Session>& session,
                                                       UniqueFd fd) {
  absl::StatusOr<uint64_t> id = KeepDescriptor(*session, fd);
  if (!id.ok()) {
    std::vector<UniqueFd> refused;
    refused.push_back(std::move(fd));
    Close(session->info().peer, std::move(refused));
  }
  return id;
}

absl::StatusOr<uint64_t> BufferRegistry::KeepDescriptor(const Session& session, UniqueFd& fd) {
  if (IsScarce(fd.get())) {
    return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_BUFFERS_FULL,
                     "descriptors and buffers may take half of the process's descriptors: take or "
                     "release some");
  }
  absl::MutexLock lock(&mutex_);
  const absl::StatusOr<Holdings*> holdings = HoldingsOf(session);
  if (!holdings.ok()) return holdings.status();
  absl::StatusOr<BufferCharge> charge = Charge(**holdings, 1, 0);
  if (!charge.ok()) return charge.status();
  const uint64_t id = ++last_id_;
  (*holdings)->descriptors.emplace(id, ChargedDescriptor{*std::move(charge), std::move(fd)});
  return id;
}

absl::StatusOr<UniqueFd> BufferRegistry::TakeDescriptor(const Session& session, uint64_t id) {
  absl::MutexLock lock(&mutex_);
  const auto holdings = sessions_.find(&session);
  if (holdings == sessions_.end()) return Unknown(id);
  const auto found = holdings->second.descriptors.find(id);
  if (found == holdings->second.descriptors.end()) return Unknown(id);
  UniqueFd fd = std::move(found->second.fd);
  holdings->second.descriptors.erase(found);
  return fd;
}

void BufferRegistry::Refuse(const PeerIdentity& from, std::vector<UniqueFd> fds) {
  CountRefused(fds.size());
  Close(from, std::move(fds));
}

void BufferRegistry::Close(const PeerIdentity& from, std::vector<UniqueFd> fds) {
  if (fds.empty()) return;
  std::shared_ptr<Account> account;
  {
    absl::MutexLock lock(&mutex_);
    account = AccountOf(unclosed_, SenderOf(from), {.items = kMaxUnclosed});
  }
  std::vector<ChargedDescriptor> charged;
  for (UniqueFd& fd : fds) charged.push_back({BufferCharge({account}, 1, 0), std::move(fd)});
  closer_.Close(std::move(charged));
}

int64_t BufferRegistry::Unclosed(const PeerIdentity& from) const {
  absl::MutexLock lock(&mutex_);
  const auto found = unclosed_.find(SenderOf(from));
  if (found == unclosed_.end()) return 0;
  const std::shared_ptr<Account> account = found->second.lock();
  return account == nullptr ? 0 : account->held().items;
}

void BufferRegistry::EndSession(const Session& session) {
  Freed freed;
  std::vector<ChargedDescriptor> descriptors;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = sessions_.find(&session);
    if (found == sessions_.end()) return;
    Holdings& holdings = found->second;
    while (!holdings.buffers.empty()) {
      Drop(holdings, session, holdings.buffers.begin()->first, freed);
    }
    for (auto& [id, descriptor] : holdings.descriptors) {
      descriptors.push_back(std::move(descriptor));
    }
    sessions_.erase(found);
  }
  reaper_.Free(std::move(freed));
  closer_.Close(std::move(descriptors));
}

void BufferRegistry::EndAll() {
  absl::flat_hash_map<const Session*, Holdings> sessions;
  {
    absl::MutexLock lock(&mutex_);
    sessions.swap(sessions_);
  }
  std::vector<ChargedDescriptor> descriptors;
  for (auto& [session, holdings] : sessions) {
    for (auto& [id, descriptor] : holdings.descriptors) {
      descriptors.push_back(std::move(descriptor));
    }
  }
  closer_.Close(std::move(descriptors));
}

Bound BufferRegistry::HeldBy(const Session& session) const {
  absl::MutexLock lock(&mutex_);
  const auto found = sessions_.find(&session);
  if (found == sessions_.end()) return {};
  return found->second.account->held();
}

std::vector<BoundStatus> BufferRegistry::GetBounds() const {
  std::vector<BoundStatus> bounds = {
      {.holder = total_->holder(), .held = total_->held(), .bound = total_->bound()}};
  absl::MutexLock lock(&mutex_);
  for (const auto& [holder, known] : users_) {
    if (const std::shared_ptr<Account> account = known.lock()) {
      bounds.push_back({.holder = holder, .held = account->held(), .bound = account->bound()});
    }
  }
  std::sort(bounds.begin() + 1, bounds.end(),
            [](const BoundStatus& a, const BoundStatus& b) { return a.holder < b.holder; });
  return bounds;
}

}  // namespace runloop::internal

#include "runloop/runtime/handle_table.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runloop/runtime/closure_task.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/session.h"

namespace runloop {
namespace internal {

struct ClosingState {
  std::weak_ptr<RuntimeCore> core;
  std::weak_ptr<Session> session;
  Handle handle = 0;
  absl::Time deadline;
  std::atomic<bool> closed{false};
  bool beginning = false;  // the runtime thread only: inside the object's Close
};

namespace {

absl::Status UnknownHandle(Handle handle) {
  return MakeError(absl::StatusCode::kNotFound, v1::ERROR_REASON_UNKNOWN_HANDLE,
                   absl::StrCat("handle ", handle,
                                " names nothing of this session's that can be used so: it was "
                                "released, or was never given here"),
                   {{"handle", absl::StrCat(handle)}});
}

}  // namespace

HandleTable::~HandleTable() { DestroyAll(); }

absl::StatusOr<Handle> HandleTable::Add(RuntimeCore& core, std::unique_ptr<HeldObject> object,
                                        std::type_index type, uint64_t maker) {
  if (size_.load() >= core.max_handles()) {
    return MakeError(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_HANDLES_FULL,
                     absl::StrCat("the session holds ", core.max_handles(),
                                  " handles, as many as it may: release some"),
                     {{"limit", absl::StrCat(core.max_handles())}});
  }
  const Handle handle = core.NewHandle();
  const auto entry = entries_
                         .emplace(handle, Entry{.object = std::move(object),
                                                .type = type,
                                                .maker = maker,
                                                .closing = nullptr,
                                                .close_by = absl::InfiniteFuture(),
                                                .done = nullptr})
                         .first;
  size_.fetch_add(1);
  {
    absl::MutexLock lock(&mutex_);
    ++makers_[maker];
  }
  if (closing_all_ && all_done_) {
    BeginClose(core, entry, nullptr);
  } else if (closing_all_) {
    Destroy(entry, absl::OkStatus());  // nobody would look after it any more
  }
  return handle;
}

absl::StatusOr<void*> HandleTable::Find(Handle handle, std::type_index type) const {
  const auto found = entries_.find(handle);
  if (found == entries_.end() || found->second.closing != nullptr || found->second.type != type) {
    return UnknownHandle(handle);
  }
  return found->second.object->get();
}

absl::Status HandleTable::Release(RuntimeCore& core, Handle handle, Done done) {
  const auto found = entries_.find(handle);
  if (found == entries_.end() || found->second.closing != nullptr) return UnknownHandle(handle);
  BeginClose(core, found, std::move(done));
  return absl::OkStatus();
}

bool HandleTable::BeginClose(RuntimeCore& core, Entries::iterator entry, Done done) {
  const Handle handle = entry->first;
  Entry& held = entry->second;
  auto state = std::make_shared<ClosingState>();
  state->core = core.weak_from_this();
  state->session = session_.weak_from_this();
  state->handle = handle;
  state->deadline = core.clock().Now() + core.close_timeout();
  state->beginning = true;
  held.closing = state;
  held.close_by = state->deadline;
  held.done = std::move(done);
  try {
    held.object->Close(Closing(state));
  } catch (...) {
    LogClosureThrew(core);
    state->closed = true;
  }
  state->beginning = false;
  if (!state->closed) {
    core.WatchClosing(state->deadline);
    return false;
  }
  // The object's own Close may have run a loop, and that the end of other objects, but not of this.
  const auto found = entries_.find(handle);
  if (found != entries_.end()) Destroy(found, absl::OkStatus());
  return true;
}

void HandleTable::Destroy(Entries::iterator entry, absl::Status how) {
  // Out of the table first: the destructor may do anything.
  Entry held = std::move(entry->second);
  entries_.erase(entry);
  {
    absl::MutexLock lock(&mutex_);
    const auto made = makers_.find(held.maker);
    if (made != makers_.end() && --made->second == 0) {
      given_up_.erase(held.maker);
      makers_.erase(made);
    }
  }
  held.object.reset();
  size_.fetch_sub(1);
  if (held.done) std::move(held.done)(std::move(how));
}

void HandleTable::OnClosed(RuntimeCore& core, Handle handle) {
  const auto found = entries_.find(handle);
  if (found != entries_.end()) Destroy(found, absl::OkStatus());
  if (closing_all_) CloseNext(core);
}

void HandleTable::CloseAll(RuntimeCore& core, absl::AnyInvocable<void() &&> done) {
  closing_all_ = true;
  all_done_ = std::move(done);
  CloseNext(core);
}

void HandleTable::CloseNext(RuntimeCore& core) {
  if (std::exchange(in_close_next_, true)) return;  // the loop below goes on
  while (!entries_.empty()) {
    const auto last = std::prev(entries_.end());
    if (last->second.closing != nullptr || !BeginClose(core, last, nullptr)) break;
  }
  in_close_next_ = false;
  if (entries_.empty() && all_done_) std::exchange(all_done_, nullptr)();
}

size_t HandleTable::DestroyAll() {
  closing_all_ = true;
  all_done_ = nullptr;  // nobody waits for what closes from now on: Add destroys it at once
  size_t destroyed = 0;
  for (; !entries_.empty(); ++destroyed) {
    Destroy(std::prev(entries_.end()),
            MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_RUNTIME_STOPPED,
                      "the runtime stopped before the object was closed"));
  }
  return destroyed;
}

absl::Time HandleTable::DestroyOverdue(RuntimeCore& core, absl::Time now) {
  std::vector<Handle> overdue;
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    if (entry->second.close_by <= now) overdue.push_back(entry->first);
  }
  for (const Handle handle : overdue) {
    const auto entry = entries_.find(handle);
    if (entry == entries_.end()) continue;
    const std::string text =
        absl::StrCat("an object of session ", session_.info().id, " was not closed within ",
                     absl::FormatDuration(core.close_timeout()), " and was destroyed as it was");
    core.Log(LogSeverity::kWarning, text);
    Destroy(entry,
            MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING, text));
  }
  if (!overdue.empty() && closing_all_) CloseNext(core);
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [handle, entry] : entries_) next = std::min(next, entry.close_by);
  return next;
}

void HandleTable::GiveUp(RuntimeCore& core, uint64_t maker) {
  {
    absl::MutexLock lock(&mutex_);
    // Only what exists is noted, so a peer that gives up what it likes costs nothing.
    if (!makers_.contains(maker) || !given_up_.insert(maker).second) return;
    if (std::exchange(releasing_, true)) return;  // one look for all of them
  }
  core.RunCleanup(
      [&core, session = session_.shared_from_this()] { session->handles_.ReleaseGivenUp(core); });
}

void HandleTable::ReleaseGivenUp(RuntimeCore& core) {
  std::vector<Handle> handles;
  {
    absl::MutexLock lock(&mutex_);
    releasing_ = false;
    for (const auto& [handle, entry] : entries_) {
      if (given_up_.contains(entry.maker)) handles.push_back(handle);
    }
    // Given up once more, what they have made since is looked for, too.
    given_up_.clear();
  }
  for (auto handle = handles.rbegin(); handle != handles.rend(); ++handle) {
    Release(core, *handle, nullptr).IgnoreError();  // it may be closed already
  }
}

}  // namespace internal

Closing& Closing::operator=(Closing&& other) noexcept {
  if (this != &other) {
    Closing(std::move(*this));
    state_ = std::move(other.state_);
  }
  return *this;
}

Closing::~Closing() {
  if (state_ == nullptr) return;
  state_->closed = true;
  const std::shared_ptr<internal::RuntimeCore> core = state_->core.lock();
  if (core == nullptr || (core->OnRuntimeThread() && state_->beginning)) return;
  // If the runtime has stopped, the object is destroyed already.
  core->RunCleanup([raw = core.get(), state = state_] {
    if (const std::shared_ptr<Session> session = state->session.lock()) {
      session->handles_.OnClosed(*raw, state->handle);
    }
  });
}

absl::Time Closing::deadline() const { return state_->deadline; }

}  // namespace runloop

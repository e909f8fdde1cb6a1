#ifndef RUNLOOP_RUNTIME_HANDLE_TABLE_H_
#define RUNLOOP_RUNTIME_HANDLE_TABLE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <typeindex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "runloop/runtime/handle.h"

namespace runloop {

class Session;

namespace internal {

class RuntimeCore;

// An object with its type erased.
class HeldObject {
 public:
  virtual ~HeldObject() = default;
  virtual void* get() = 0;
  virtual void Close(Closing closing) = 0;
};

template <typename T>
class HeldObjectOf final : public HeldObject {
 public:
  explicit HeldObjectOf(std::unique_ptr<T> object) : object_(std::move(object)) {}
  void* get() override { return object_.get(); }
  void Close(Closing closing) override {
    if constexpr (requires(T & object) { object.Close(std::move(closing)); }) {
      object_->Close(std::move(closing));
    }
  }

 private:
  const std::unique_ptr<T> object_;
};

// What one session holds by handle, and the one path by which it goes: release, the session's end,
// a crash and a drain all come here (D7).
//
// Threads: the runtime thread, but for size, GiveUp and what Closing does. Owned by the session.
class HandleTable {
 public:
  // An object of the session, until it is destroyed.
  using Done = absl::AnyInvocable<void(absl::Status) &&>;

  explicit HandleTable(Session& session) : session_(session) {}
  ~HandleTable();

  // Keeps an object. `maker` is the number, in the session, of the invocation that made it. If the
  // session is closed already, the object is destroyed at once and the handle names nothing; while
  // it is being closed, it is closed first of all. RESOURCE_EXHAUSTED (HANDLES_FULL): the object is
  // destroyed.
  absl::StatusOr<Handle> Add(RuntimeCore& core, std::unique_ptr<HeldObject> object,
                             std::type_index type, uint64_t maker);

  // NOT_FOUND (UNKNOWN_HANDLE).
  absl::StatusOr<void*> Find(Handle handle, std::type_index type) const;

  absl::Status Release(RuntimeCore& core, Handle handle, Done done);

  // Nobody will look at the result of the invocation `maker`: what it made is released, soon. Any
  // thread.
  void GiveUp(RuntimeCore& core, uint64_t maker);

  // Closes everything, one object after another, last made first; `done` runs once the last is
  // destroyed, maybe before this returns.
  void CloseAll(RuntimeCore& core, absl::AnyInvocable<void() &&> done);
  // Destroys what is left, as it is, last made first. How many that were.
  size_t DestroyAll();

  // Destroys what should have closed by `now`; returns when to come back, or InfiniteFuture.
  absl::Time DestroyOverdue(RuntimeCore& core, absl::Time now);

  // An object has said that it is closed. The runtime thread.
  void OnClosed(RuntimeCore& core, Handle handle);

  // Objects, those that are being closed included. Any thread.
  size_t size() const { return size_.load(); }

 private:
  struct Entry {
    std::unique_ptr<HeldObject> object;
    std::type_index type;
    uint64_t maker = 0;
    std::shared_ptr<ClosingState> closing;  // set once it is being closed
    absl::Time close_by = absl::InfiniteFuture();
    Done done;
  };
  using Entries = std::map<Handle, Entry>;

  void ReleaseGivenUp(RuntimeCore& core);
  // Begins to close it. True: it is closed, and destroyed.
  bool BeginClose(RuntimeCore& core, Entries::iterator entry, Done done);
  void Destroy(Entries::iterator entry, absl::Status how);
  // Goes on with CloseAll.
  void CloseNext(RuntimeCore& core);

  Session& session_;
  Entries entries_;  // by age, since handles rise
  absl::AnyInvocable<void() &&> all_done_;
  bool closing_all_ = false;
  bool in_close_next_ = false;
  std::atomic<size_t> size_{0};

  absl::Mutex mutex_;
  // How many objects each invocation has made that are held, and those of them that were given up.
  absl::flat_hash_map<uint64_t, int> makers_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<uint64_t> given_up_ ABSL_GUARDED_BY(mutex_);
  bool releasing_ ABSL_GUARDED_BY(mutex_) = false;  // ReleaseGivenUp is on its way
};

}  // namespace internal
}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_HANDLE_TABLE_H_

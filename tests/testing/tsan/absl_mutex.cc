// Linked into ThreadSanitizer's test programs only. Debian's Abseil is built without it, so that it
// sees no happens-before edge in a Mutex and reports races that are none. These definitions stand
// before the library's, tell the sanitizer, and call the library's.
//
// Not covered, so not to be used in this project: Mutex::Await and its like, whose conditions the
// library evaluates on whatever thread unlocks. Wait on a CondVar instead.
//
// The mangled names are those of Debian 12's inline namespace, debian3.
#include <absl/synchronization/mutex.h>
#include <absl/synchronization/notification.h>
#include <absl/time/clock.h>
#include <dlfcn.h>
#include <poll.h>
#include <sanitizer/tsan_interface.h>

namespace {

// The library's definition of a symbol, looked up once for each place that asks.
template <typename Function>
Function Library(const char* symbol) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, symbol));
}

// Holds `mutex` again when it returns. False: `deadline` came first.
bool AwaitByLooking(absl::Mutex& mutex, const absl::Condition& condition,
                    absl::Time deadline) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  while (!condition.Eval()) {
    if (absl::Now() >= deadline) return false;
    mutex.Unlock();
    poll(nullptr, 0, 1);
    mutex.Lock();
  }
  return true;
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Await(const Condition& condition) {
  AwaitByLooking(*this, condition, absl::InfiniteFuture());
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  return AwaitByLooking(*this, condition, absl::Now() + timeout);
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  return AwaitByLooking(*this, condition, deadline);
}

void Mutex::LockWhen(const Condition& condition) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  Lock();
  Await(condition);
}

void Mutex::Lock() {
  static auto lock = Library<void (*)(Mutex*)>("_ZN4absl7debian35Mutex4LockEv");
  lock(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  static auto unlock = Library<void (*)(Mutex*)>("_ZN4absl7debian35Mutex6UnlockEv");
  __tsan_release(this);
  unlock(this);
}

void Mutex::ReaderLock() {
  static auto lock = Library<void (*)(Mutex*)>("_ZN4absl7debian35Mutex10ReaderLockEv");
  lock(this);
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() {
  static auto unlock = Library<void (*)(Mutex*)>("_ZN4absl7debian35Mutex12ReaderUnlockEv");
  __tsan_release(this);
  unlock(this);
}

bool Mutex::TryLock() {
  static auto try_lock = Library<bool (*)(Mutex*)>("_ZN4absl7debian35Mutex7TryLockEv");
  const bool locked = try_lock(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void CondVar::Wait(Mutex* mutex) {
  static auto wait =
      Library<void (*)(CondVar*, Mutex*)>("_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE");
  __tsan_release(mutex);
  wait(this, mutex);
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  static auto wait = Library<bool (*)(CondVar*, Mutex*, Time)>(
      "_ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  __tsan_release(mutex);
  const bool timed_out = wait(this, mutex, deadline);
  __tsan_acquire(mutex);
  return timed_out;
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  static auto wait = Library<bool (*)(CondVar*, Mutex*, Duration)>(
      "_ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  __tsan_release(mutex);
  const bool timed_out = wait(this, mutex, timeout);
  __tsan_acquire(mutex);
  return timed_out;
}

void Notification::Notify() {
  static auto notify = Library<void (*)(Notification*)>("_ZN4absl7debian312Notification6NotifyEv");
  __tsan_release(this);
  notify(this);
}

void Notification::WaitForNotification() const {
  static auto wait = Library<void (*)(const Notification*)>(
      "_ZNK4absl7debian312Notification19WaitForNotificationEv");
  wait(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

ABSL_NAMESPACE_END
}  // namespace absl

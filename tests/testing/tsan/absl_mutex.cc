// Linked into ThreadSanitizer's test programs only. Debian's Abseil is built without it, so that it sees no happens-before
// edge in a Mutex and reports races that are none. These definitions stand before the library's, tell the sanitizer, and
// call the library's. The mangled names are those of Debian 12's inline namespace, debian3.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>
#include <absl/synchronization/mutex.h>
template <class F> static F Next(const char* s) { return (F)dlsym(RTLD_NEXT, s); }
#define REAL(var, sig, sym) static auto var = Next<sig>(sym)
namespace absl { ABSL_NAMESPACE_BEGIN
void Mutex::Lock() { REAL(f, void (*)(Mutex*), "_ZN4absl7debian35Mutex4LockEv"); f(this); __tsan_acquire(this); }
void Mutex::Unlock() { REAL(f, void (*)(Mutex*), "_ZN4absl7debian35Mutex6UnlockEv"); __tsan_release(this); f(this); }
void Mutex::ReaderLock() { REAL(f, void (*)(Mutex*), "_ZN4absl7debian35Mutex10ReaderLockEv"); f(this); __tsan_acquire(this); }
void Mutex::ReaderUnlock() { REAL(f, void (*)(Mutex*), "_ZN4absl7debian35Mutex12ReaderUnlockEv"); __tsan_release(this); f(this); }
bool Mutex::TryLock() { REAL(f, bool (*)(Mutex*), "_ZN4absl7debian35Mutex7TryLockEv"); bool r = f(this); if (r) __tsan_acquire(this); return r; }
void CondVar::Wait(Mutex* m) { REAL(f, void (*)(CondVar*, Mutex*), "_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE"); __tsan_release(m); f(this, m); __tsan_acquire(m); __tsan_acquire(this); }
bool CondVar::WaitWithDeadline(Mutex* m, absl::Time t) { REAL(f, bool (*)(CondVar*, Mutex*, absl::Time), "_ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE"); __tsan_release(m); bool r = f(this, m, t); __tsan_acquire(m); __tsan_acquire(this); return r; }
bool CondVar::WaitWithTimeout(Mutex* m, absl::Duration t) { REAL(f, bool (*)(CondVar*, Mutex*, absl::Duration), "_ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE"); __tsan_release(m); bool r = f(this, m, t); __tsan_acquire(m); __tsan_acquire(this); return r; }
void CondVar::Signal() { REAL(f, void (*)(CondVar*), "_ZN4absl7debian37CondVar6SignalEv"); __tsan_release(this); f(this); }
void CondVar::SignalAll() { REAL(f, void (*)(CondVar*), "_ZN4absl7debian37CondVar9SignalAllEv"); __tsan_release(this); f(this); }
ABSL_NAMESPACE_END }

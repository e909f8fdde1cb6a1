#ifndef RUNLOOP_TESTS_GUIDE_CAMERA_H_
#define RUNLOOP_TESTS_GUIDE_CAMERA_H_

#include <deque>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "acme/v1/camera.pb.h"
#include "runloop/runtime/operation_registry.h"

namespace acme {

// Stands for what the guide's operations call: an SDK that answers later, by callbacks.
// Thread-safe.
class Sdk {
 public:
  void AskUser(absl::AnyInvocable<void(bool granted) &&> answered);
  void Shut(absl::AnyInvocable<void() &&> shut);
  void Zoom(int percent);

  // The test's side: each waits until it was asked.
  void Answer(bool granted);
  void FinishShutting();
  std::vector<int> zooms() const;

 private:
  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  std::deque<absl::AnyInvocable<void(bool granted) &&>> asked_ ABSL_GUARDED_BY(mutex_);
  std::deque<absl::AnyInvocable<void() &&>> shutting_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> zooms_ ABSL_GUARDED_BY(mutex_);
};

// The operations of acme/v1/camera.proto.
absl::Status RegisterCamera(runloop::OperationRegistry& operations, std::shared_ptr<Sdk> sdk);

}  // namespace acme

#endif  // RUNLOOP_TESTS_GUIDE_CAMERA_H_

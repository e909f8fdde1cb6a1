#include "runloop/runtime/timer.h"

#include "runloop/runtime/core.h"

namespace runloop {

bool Timer::Cancel() const { return task_ != nullptr && core_->CancelTimer(*task_); }

}  // namespace runloop

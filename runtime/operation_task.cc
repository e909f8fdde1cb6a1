#include "runloop/runtime/operation_task.h"

#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "runloop/runtime/closure_task.h"
#include "runloop/runtime/core.h"
#include "runloop/runtime/error.h"
#include "runloop/runtime/planted_bugs.h"

namespace runloop {

std::string_view OperationContext::operation() const { return task_.operation->name(); }
const std::shared_ptr<Session>& OperationContext::session() const { return task_.session; }
absl::Time OperationContext::deadline() const { return task_.deadline; }
CallSite OperationContext::call_site() const { return task_.call_site; }
std::string_view OperationContext::trace_parent() const {
  return task_.trace_parent != nullptr ? std::string_view(*task_.trace_parent) : "";
}
LocalRuntimeContext OperationContext::runtime() const { return task_.core().context(); }
absl::StatusOr<Buffer> OperationContext::OpenBuffer(v1::BufferRef ref) const {
  return task_.core().buffers().Open(*task_.session, std::move(ref));
}
absl::StatusOr<Buffer> OperationContext::NewBuffer(size_t size) const {
  const auto made = task_.core().buffers().Create(task_.session, size);
  if (!made.ok()) return made.status();
  internal::BufferView view = internal::BufferMemory::Hold(made->memory, made->id, true);
  view.size = size;
  return Buffer(std::move(view));
}
absl::StatusOr<UniqueFd> OperationContext::TakeDescriptor(uint64_t id) const {
  return task_.core().buffers().TakeDescriptor(*task_.session, id);
}
absl::StatusOr<Handle> OperationContext::KeepObject(std::unique_ptr<internal::HeldObject> object,
                                                    std::type_index type) {
  return task_.Keep(std::move(object), type);
}

namespace internal {
namespace {

// A request of so many bytes is kept until its task is destroyed, or used again.
constexpr size_t kReusedRequest = 256;

// The memory of tasks that this thread has destroyed, for those that it makes: a transport's thread
// does both, in floods, and the allocator is slow where many come and go at once.
//
// A thread keeps no more than it made: one that only destroys them has no use for it.
class FreeTasks {
 public:
  // Null while the thread's own storage is being destroyed.
  static FreeTasks* OfThisThread() {
    thread_local FreeTasks free;
    return ended_ ? nullptr : &free;
  }
  ~FreeTasks() {
    TrimTo(0);
    ended_ = true;
  }

  static void* Take(size_t size) {
    FreeTasks* const free = OfThisThread();
    if (free != nullptr) ++free->made_;
    if (free == nullptr || free->blocks_.empty()) return ::operator new(size);
    void* const block = free->blocks_.back();
    free->blocks_.pop_back();
    return block;
  }
  static void Give(void* block) {
    FreeTasks* const free = OfThisThread();
    if (free == nullptr || free->made_ == 0 || free->blocks_.size() == kMost) {
      ::operator delete(block);
      return;
    }
    --free->made_;
    free->blocks_.push_back(block);
  }
  void TrimTo(size_t keep) {
    if (blocks_.size() <= keep) return;
    for (size_t i = keep; i < blocks_.size(); ++i) ::operator delete(blocks_[i]);
    blocks_.resize(keep);
    blocks_.shrink_to_fit();
  }

 private:
#ifdef NDEBUG
  static constexpr size_t kMost = 16'384;
#else
  static constexpr size_t kMost = 0;  // what looks for errors of memory sees each task's end
#endif
  static inline thread_local bool ended_ = false;
  size_t made_ = 0;  // and not destroyed here, as far as this thread knows
  std::vector<void*> blocks_;
};

// One block each, all of one size: with what std::allocate_shared adds.
template <typename T>
struct TaskAllocator {
  static_assert(alignof(T) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);
  using value_type = T;
  TaskAllocator() = default;
  template <typename U>
  TaskAllocator(const TaskAllocator<U>&) {}

  T* allocate(size_t) { return static_cast<T*>(FreeTasks::Take(sizeof(T))); }
  void deallocate(T* block, size_t) { FreeTasks::Give(block); }
  bool operator==(const TaskAllocator&) const { return true; }
};

}  // namespace

CompletionBase::CompletionBase(std::shared_ptr<OperationTask> task) : task_(std::move(task)) {}

CompletionBase& CompletionBase::operator=(CompletionBase&& other) noexcept {
  if (this != &other) {
    if (task_ != nullptr) task_->DropCompletion();
    task_ = std::move(other.task_);
  }
  return *this;
}

CompletionBase::~CompletionBase() {
  if (task_ != nullptr) task_->DropCompletion();
}

absl::StatusOr<Handle> CompletionBase::Keep(std::unique_ptr<HeldObject> object,
                                            std::type_index type) {
  if (task_ == nullptr) return absl::FailedPreconditionError("the completion was used before");
  return task_->Keep(std::move(object), type);
}

bool CompletionBase::reply_wanted() const { return task_ != nullptr && task_->reply_wanted(); }

void CompletionBase::Finish(absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply) {
  if (const std::shared_ptr<OperationTask> task = std::exchange(task_, nullptr)) {
    task->Finish(std::move(reply));
  }
}

OperationTask::OperationTask(std::shared_ptr<RuntimeCore> core, OperationCall&& call,
                             absl::Time now)
    : request_(std::move(call.request)),
      outcome_(nullptr),
      reply_wanted_(call.reply_wanted),
      ticket_(call.ticket),
      number_(call.number),
      core_(std::move(core)),
      sink_(std::move(call.sink)),
      coalesce_key_(std::move(call.coalesce_key)) {
  payload = request_.get();
  operation = call.operation;
  session = std::move(call.session);
  priority = session->info().priority;
  if (!session->info().in_process) {
    lane = &session->lane_;
    bytes = call.request_bytes != 0 ? call.request_bytes : request_->ByteSizeLong();
    for (const ChainLink& link : call.chain) {
      bytes += sizeof(link) + link.runtime_id.size() + link.operation.size();
    }
  }
  deadline = call.deadline;
  posted_at = now;
  call_site = call.call_site;
  trace_parent = std::move(call.trace_parent);
  if (trace_parent != nullptr && lane != nullptr)
    bytes += sizeof(std::string) + trace_parent->size();
  if (!call.chain.empty()) {
    chains = std::make_unique<std::vector<Chain>>();
    chains->push_back(std::move(call.chain));
  }
}

OperationTask::~OperationTask() = default;

std::shared_ptr<OperationTask> OperationTask::Make(std::shared_ptr<RuntimeCore> core,
                                                   OperationCall&& call, absl::Time now) {
  return std::allocate_shared<OperationTask>(TaskAllocator<OperationTask>(), std::move(core),
                                             std::move(call), now);
}

void OperationTask::TrimThread(size_t keep) {
  if (FreeTasks* const free = FreeTasks::OfThisThread()) free->TrimTo(keep);
}

std::unique_ptr<google::protobuf::Message> OperationTask::TakeRequest() {
  if (!handler_returned_.load(std::memory_order_acquire)) return nullptr;
  return std::move(request_);
}

Task::RunResult OperationTask::Run() {
  if (!coalesce_key_.empty()) session->ForgetKeyed(coalesce_key_, *this);
  OperationContext context(*this);
  absl::Status thrown;
  in_handler_ = true;
  const OperationTask* const outer = core_->ExchangeHandled(this);
  try {
    operation->handler_(context, *request_, CompletionBase(shared_from_this()));
  } catch (...) {
    thrown = CurrentExceptionStatus();
  }
  core_->ExchangeHandled(outer);
  in_handler_ = false;
  if (lane == nullptr || bytes > kReusedRequest) request_.reset();
  handler_returned_.store(true, std::memory_order_release);
  if (!thrown.ok()) {
    Finish(std::move(thrown));
  } else if (dropped_in_handler_) {
    DropCompletion();
  }
  if (state() != State::kEnded) {
    core_->deferred().Add(shared_from_this());
    if (core_->lifecycle().Defer(*this)) {
      core_->AfterDeferral(*this);
      return RunResult::kTold;
    }
    core_->deferred().Remove(*this);  // finished just now, on another thread
  }
  // A drain may follow at once, and must not close the way that the outcome takes.
  while (!delivered_.load(std::memory_order_acquire)) std::this_thread::yield();
  return RunResult::kTold;
}

void OperationTask::Finish(absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply) {
  bool was_deferred = false;
  // Whoever hears of the outcome finds it counted.
  if (!core_->lifecycle().Finish(*this, reply.ok(), core_->OnRuntimeThread(), &was_deferred)) {
    return;
  }
  const absl::Cleanup delivered = [this] { delivered_.store(true, std::memory_order_release); };
  const bool given_up = fate_.exchange(Fate::kEnded) == Fate::kGivenUp;
  // Of what failed nobody hears a handle either.
  if (given_up || !reply.ok()) ReleaseMade();
  if (given_up && reply.ok()) {
    Deliver(MakeError(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_STILL_RUNNING,
                      absl::StrCat(operation->name(),
                                   " was given up before it ended; what it made is released")));
  } else {
    Deliver(std::move(reply));
  }
  if (was_deferred) {
    core_->deferred().Remove(*this);
    core_->AfterDeferred();
  }
}

bool OperationTask::TryGiveUp() {
  if (state() == State::kEnded) return false;
  Fate wanted = Fate::kWanted;
  return fate_.compare_exchange_strong(wanted, Fate::kGivenUp) || wanted == Fate::kGivenUp;
}

void OperationTask::ReleaseMade() {
  if (!Planted(PlantedBug::kLeakedHandle)) core_->GiveUpEnded(*session, number_.load());
}

absl::StatusOr<Handle> OperationTask::Keep(std::unique_ptr<HeldObject> object,
                                           std::type_index type) {
  if (!core_->OnRuntimeThread()) {
    return absl::FailedPreconditionError("objects are kept on the runtime thread alone");
  }
  // Transports count up from 1, or as their worker does, which would then mix up its own things.
  if (number_.load() == 0) number_.store(core_->NewHandle() | uint64_t{1} << 63);
  absl::StatusOr<Handle> handle =
      session->handles_.Add(*core_, std::move(object), type, number_.load());
  if (!handle.ok() || state() != State::kEnded) return handle;
  // Too late for anybody to hear of it.
  session->Release(*handle).IgnoreError();
  return MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_SESSION_ENDED,
                   absl::StrCat(operation->name(), " has ended before it made this; it is closed"));
}

void OperationTask::DropCompletion() {
  if (core_->OnRuntimeThread() && in_handler_) {
    dropped_in_handler_ = true;
    return;
  }
  Finish(MakeError(absl::StatusCode::kAborted, v1::ERROR_REASON_COMPLETION_DROPPED,
                   absl::StrCat("the handler of ", operation->name(),
                                " dropped its completion without finishing it"),
                   {{"operation", operation->name()}}));
}

void OperationTask::Skip(const absl::Status& why) {
  if (!coalesce_key_.empty()) session->ForgetKeyed(coalesce_key_, *this);
  if (!Planted(PlantedBug::kRunAfterCancel)) request_.reset();
  Deliver(why);
}

void OperationTask::Deliver(absl::StatusOr<std::unique_ptr<google::protobuf::Message>> reply) {
  if (sink_ != nullptr && Planted(PlantedBug::kDoubleCompletion)) {
    // By another task: its sink may keep each in a list.
    const auto twin = Make(core_,
                           {.operation = operation,
                            .request_bytes = 1,
                            .session = session,
                            .reply_wanted = reply_wanted_,
                            .ticket = ticket_},
                           posted_at);
    twin->outcome_ = absl::UnknownError("");
    sink_->Deliver(twin);
  }
  if (sink_ == nullptr) return;
  outcome_ = std::move(reply);
  if (!reply_wanted_ && outcome_.ok()) outcome_->reset();
  sink_->Deliver(shared_from_this());
}

}  // namespace internal
}  // namespace runloop

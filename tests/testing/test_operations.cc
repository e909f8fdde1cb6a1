#include "runloop/tests/testing/test_operations.h"

#include <algorithm>
#include <stdexcept>
#include <thread>

#include "absl/status/status.h"
#include "runloop/runtime/local_context.h"

namespace runloop {
namespace {

using namespace test::v1;  // NOLINT(google-build-using-namespace): the messages of this file's
                           // operations

void Must(const absl::Status& status) {
  if (!status.ok()) throw std::logic_error(status.ToString());
}

}  // namespace

// What Make makes.
class TestOperations::Thing {
 public:
  Thing(std::shared_ptr<TestOperations> operations, const MakeRequest& request)
      : operations_(std::move(operations)),
        name_(request.name()),
        slow_(request.closes_slowly()),
        made_on_(std::this_thread::get_id()) {}
  ~Thing() {
    const bool here = std::this_thread::get_id() == made_on_;
    absl::MutexLock lock(&operations_->mutex_);
    operations_->destroyed_.push_back((here ? "" : "?") + std::string(closed_ ? "" : "!") + name_);
    operations_->changed_.SignalAll();
  }
  void Close(Closing closing) {
    closed_ = true;
    if (!slow_) return;
    absl::MutexLock lock(&operations_->mutex_);
    operations_->closing_.push_back(std::move(closing));
    operations_->changed_.SignalAll();
  }
  const std::string& name() const { return name_; }

 private:
  const std::shared_ptr<TestOperations> operations_;
  const std::string name_;
  const bool slow_;
  const std::thread::id made_on_;
  bool closed_ = false;
};

std::shared_ptr<TestOperations> TestOperations::Register(OperationRegistry& registry) {
  auto self = std::make_shared<TestOperations>();

  Must(registry.Register<EchoRequest, EchoReply>(
      kEcho, [](OperationContext& context, EchoRequest request) -> absl::StatusOr<EchoReply> {
        EchoReply reply;
        reply.set_text(request.text());
        reply.set_payload_size(request.payload().size());
        reply.set_on_runtime_thread(context.runtime().OnRuntimeThread());
        return reply;
      }));

  Must(registry.Register<RecordRequest, RecordReply>(
      kRecord,
      [self](OperationContext& context, RecordRequest request) -> absl::StatusOr<RecordReply> {
        RecordReply reply;
        const std::string id = context.session()->info().id;
        bool is_new = false;
        {
          absl::MutexLock lock(&self->mutex_);
          reply.set_position(self->record_.size());
          self->record_.emplace_back(request.producer(), request.index());
          self->changed_.SignalAll();
          if (std::find(self->known_sessions_.begin(), self->known_sessions_.end(), id) ==
              self->known_sessions_.end()) {
            self->known_sessions_.push_back(id);
            is_new = true;
          }
        }
        if (is_new) {
          const absl::StatusOr<Handle> kept = context.Keep(std::make_unique<SessionEnd>(self, id));
          if (!kept.ok()) return kept.status();
        }
        return reply;
      }));

  Must(registry.Register<FailRequest, FailReply>(
      kFail, [](OperationContext&, FailRequest request) -> absl::StatusOr<FailReply> {
        return absl::Status(static_cast<absl::StatusCode>(request.code()), request.message());
      }));

  Must(registry.Register<ThrowRequest, ThrowReply>(
      kThrow, [](OperationContext&, ThrowRequest request) -> absl::StatusOr<ThrowReply> {
        throw std::runtime_error(request.text());
      }));

  Must(registry.Register<HoldRequest, HoldReply>(
      kHold, [self](OperationContext&, HoldRequest) -> absl::StatusOr<HoldReply> {
        self->HoldThread();
        return HoldReply();
      }));

  Must(registry.RegisterDeferred<DeferRequest, DeferReply>(
      kDefer, [self](OperationContext&, DeferRequest, Completion<DeferReply> completion) {
        absl::MutexLock lock(&self->mutex_);
        self->deferred_.push_back(std::move(completion));
        self->changed_.SignalAll();
      }));

  Must(registry.RegisterDeferred<DropRequest, DropReply>(
      kDrop, [](OperationContext&, DropRequest, Completion<DropReply>) {}));

  Must(registry.Register<MakeRequest, MakeReply>(
      kMake, [self](OperationContext& context, MakeRequest request) -> absl::StatusOr<MakeReply> {
        if (request.holds_first()) self->HoldThread();
        const absl::StatusOr<Handle> handle = context.Keep(std::make_unique<Thing>(self, request));
        if (!handle.ok()) return handle.status();
        MakeReply reply;
        reply.set_handle(*handle);
        return reply;
      }));

  Must(registry.Register<UseRequest, UseReply>(
      kUse, [](OperationContext& context, UseRequest request) -> absl::StatusOr<UseReply> {
        const absl::StatusOr<Thing*> thing = context.session()->Find<Thing>(request.handle());
        if (!thing.ok()) return thing.status();
        UseReply reply;
        reply.set_name((*thing)->name());
        return reply;
      }));

  return self;
}

TestOperations::SessionEnd::~SessionEnd() {
  absl::MutexLock lock(&operations->mutex_);
  operations->ended_sessions_.push_back(id);
  operations->changed_.SignalAll();
}

void TestOperations::HoldThread() {
  absl::MutexLock lock(&mutex_);
  ++held_;
  changed_.SignalAll();
  while (let_go_ == 0) changed_.Wait(&mutex_);
  --let_go_;
  --held_;
}

std::vector<TestOperations::Item> TestOperations::record() const {
  absl::MutexLock lock(&mutex_);
  return record_;
}

void TestOperations::AwaitRecorded(size_t count) const {
  absl::MutexLock lock(&mutex_);
  while (record_.size() < count) changed_.Wait(&mutex_);
}

void TestOperations::AwaitHeld() {
  absl::MutexLock lock(&mutex_);
  while (held_ == 0) changed_.Wait(&mutex_);
}

void TestOperations::LetGo() {
  absl::MutexLock lock(&mutex_);
  ++let_go_;
  changed_.SignalAll();
}

Completion<test::v1::DeferReply> TestOperations::TakeDeferred() {
  absl::MutexLock lock(&mutex_);
  while (!(!deferred_.empty())) changed_.Wait(&mutex_);
  Completion<test::v1::DeferReply> taken = std::move(deferred_.front());
  deferred_.erase(deferred_.begin());
  return taken;
}

std::vector<std::string> TestOperations::destroyed() const {
  absl::MutexLock lock(&mutex_);
  return destroyed_;
}

void TestOperations::AwaitDestroyed(size_t count) const {
  absl::MutexLock lock(&mutex_);
  while (destroyed_.size() < count) changed_.Wait(&mutex_);
}

void TestOperations::AwaitClosing() {
  absl::MutexLock lock(&mutex_);
  while (closing_.empty()) changed_.Wait(&mutex_);
}

void TestOperations::FinishClosing() {
  std::vector<Closing> done;  // dropped outside the lock
  absl::MutexLock lock(&mutex_);
  while (closing_.empty()) changed_.Wait(&mutex_);
  done.push_back(std::move(closing_.front()));
  closing_.erase(closing_.begin());
}

std::vector<std::string> TestOperations::ended_sessions() const {
  absl::MutexLock lock(&mutex_);
  return ended_sessions_;
}

void TestOperations::AwaitEndedSessions(size_t count) const {
  absl::MutexLock lock(&mutex_);
  while (!(ended_sessions_.size() >= count)) changed_.Wait(&mutex_);
}

}  // namespace runloop

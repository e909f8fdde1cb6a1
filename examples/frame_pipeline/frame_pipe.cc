#include "runloop/examples/frame_pipeline/frame_pipe.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace runloop::examples {

using pipeline::v1::ConsumeReply;
using pipeline::v1::ConsumeRequest;
using pipeline::v1::ProduceReply;
using pipeline::v1::ProduceRequest;
using pipeline::v1::PullReply;
using pipeline::v1::PullRequest;
using pipeline::v1::PushReply;
using pipeline::v1::PushRequest;

namespace {

constexpr size_t kMaxName = 64;

absl::Status CheckName(const std::string& name) {
  if (!name.empty() && name.size() <= kMaxName) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a pipe's name has 1 to ", kMaxName, " bytes, not ", name.size()));
}

absl::Status NotYours(const char* side) {
  return absl::FailedPreconditionError(absl::StrCat("this session is not the pipe's ", side));
}

}  // namespace

class FramePipes::Side {
 public:
  Side(std::weak_ptr<FramePipes> pipes, std::string name, bool producer)
      : pipes_(std::move(pipes)), name_(std::move(name)), producer_(producer) {}
  ~Side() {
    if (const std::shared_ptr<FramePipes> pipes = pipes_.lock()) pipes->Leave(name_, producer_);
  }
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;

 private:
  const std::weak_ptr<FramePipes> pipes_;
  const std::string name_;
  const bool producer_;
};

absl::Status FramePipes::Register(OperationRegistry& operations) {
  const auto pipes = std::make_shared<FramePipes>();
  absl::Status status = operations.RegisterDeferred<ProduceRequest, ProduceReply>(
      "runloop.examples.pipeline.v1.FramePipe/Produce",
      [pipes](OperationContext& context, const ProduceRequest& request,
              Completion<ProduceReply> completion) {
        pipes->Produce(context, request.pipe(), std::move(completion));
      });
  if (!status.ok()) return status;
  status = operations.Register<ConsumeRequest, ConsumeReply>(
      "runloop.examples.pipeline.v1.FramePipe/Consume",
      [pipes](OperationContext& context, const ConsumeRequest& request) {
        return pipes->Consume(context, request.pipe());
      });
  if (!status.ok()) return status;
  status = operations.RegisterDeferred<PushRequest, PushReply>(
      "runloop.examples.pipeline.v1.FramePipe/Push",
      [pipes](OperationContext& context, PushRequest request, Completion<PushReply> completion) {
        pipes->Push(context, std::move(request), std::move(completion));
      });
  if (!status.ok()) return status;
  return operations.RegisterDeferred<PullRequest, PullReply>(
      "runloop.examples.pipeline.v1.FramePipe/Pull",
      [pipes](OperationContext& context, const PullRequest& request,
              Completion<PullReply> completion) {
        pipes->Pull(context, request.pipe(), std::move(completion));
      });
}

void FramePipes::Produce(OperationContext& context, const std::string& name,
                         Completion<ProduceReply> completion) {
  absl::Status status = CheckName(name);
  if (context.session()->ended()) status = absl::AbortedError("the session has ended");
  const auto known = pipes_.find(name);
  if (known != pipes_.end() && !known->second.producer.empty()) {
    status = absl::AlreadyExistsError(absl::StrCat("pipe '", name, "' has a producer"));
  }
  if (status.ok()) {
    status = completion.Keep(std::make_unique<Side>(weak_from_this(), name, true)).status();
  }
  if (!status.ok()) {
    completion.Finish(std::move(status));
    return;
  }
  Pipe& pipe = pipes_[name];
  pipe.producer = context.session()->info().id;
  pipe.ended = false;
  pipe.producing = std::move(completion);
  Advance(pipe);
}

absl::StatusOr<ConsumeReply> FramePipes::Consume(OperationContext& context,
                                                 const std::string& name) {
  if (absl::Status status = CheckName(name); !status.ok()) return status;
  if (context.session()->ended()) return absl::AbortedError("the session has ended");
  const auto known = pipes_.find(name);
  if (known != pipes_.end() && !known->second.consumer.empty()) {
    return absl::AlreadyExistsError(absl::StrCat("pipe '", name, "' has a consumer"));
  }
  const absl::StatusOr<Handle> side =
      context.Keep(std::make_unique<Side>(weak_from_this(), name, false));
  if (!side.ok()) return side.status();
  Pipe& pipe = pipes_[name];
  pipe.consumer = context.session()->info().id;
  Advance(pipe);
  return ConsumeReply();
}

void FramePipes::Push(OperationContext& context, PushRequest request,
                      Completion<PushReply> completion) {
  const auto known = pipes_.find(request.pipe());
  if (known == pipes_.end() || known->second.producer != context.session()->info().id ||
      known->second.ended) {
    completion.Finish(NotYours("producer"));
    return;
  }
  Pipe& pipe = known->second;
  if (pipe.consumer.empty()) {
    completion.Finish(absl::AbortedError("the pipe's consumer has gone"));
  } else if (!request.has_frame()) {
    pipe.ended = true;
    completion.Finish(PushReply());
  } else if (pipe.pushed.size() >= kMaxPushed) {
    completion.Finish(absl::ResourceExhaustedError(
        absl::StrCat("the consumer has ", kMaxPushed, " frames to take: await some")));
  } else {
    pipe.pushed.push_back({std::move(*request.mutable_frame()), std::move(completion)});
  }
  Advance(pipe);
}

void FramePipes::Pull(OperationContext& context, const std::string& name,
                      Completion<PullReply> completion) {
  const auto known = pipes_.find(name);
  if (known == pipes_.end() || known->second.consumer != context.session()->info().id ||
      known->second.pulling.has_value()) {
    completion.Finish(NotYours("consumer, or it pulls already"));
    return;
  }
  Pipe& pipe = known->second;
  if (pipe.taken.has_value()) std::exchange(pipe.taken, std::nullopt)->Finish(PushReply());
  pipe.pulling = std::move(completion);
  Advance(pipe);
}

void FramePipes::Advance(Pipe& pipe) {
  if (pipe.producing.has_value() && !pipe.consumer.empty()) {
    ProduceReply reply;
    reply.set_consumer_session_id(pipe.consumer);
    std::exchange(pipe.producing, std::nullopt)->Finish(std::move(reply));
  }
  if (!pipe.pulling.has_value()) return;
  if (!pipe.pushed.empty()) {
    PullReply reply;
    *reply.mutable_frame() = std::move(pipe.pushed.front().frame);
    pipe.taken = std::move(pipe.pushed.front().done);
    pipe.pushed.pop_front();
    std::exchange(pipe.pulling, std::nullopt)->Finish(std::move(reply));
  } else if (pipe.ended) {
    std::exchange(pipe.pulling, std::nullopt)
        ->Finish(absl::OutOfRangeError("the pipe has come to its end"));
  }
}

void FramePipes::Leave(const std::string& name, bool producer) {
  const auto known = pipes_.find(name);
  if (known == pipes_.end()) return;
  Pipe& pipe = known->second;
  if (producer) {
    pipe.producer.clear();
    pipe.producing.reset();
    pipe.pushed.clear();  // its buffers have gone with it
    pipe.ended = true;
  } else {
    pipe.consumer.clear();
    pipe.pulling.reset();
    // Those who wait are told.
    const absl::Status gone = absl::AbortedError("the pipe's consumer has gone");
    if (pipe.taken.has_value()) std::exchange(pipe.taken, std::nullopt)->Finish(gone);
    for (Pushed& pushed : std::exchange(pipe.pushed, {})) pushed.done.Finish(gone);
  }
  Advance(pipe);
  if (pipe.producer.empty() && pipe.consumer.empty()) pipes_.erase(known);
}

}  // namespace runloop::examples

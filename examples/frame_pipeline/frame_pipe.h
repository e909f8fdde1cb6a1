#ifndef RUNLOOP_EXAMPLES_FRAME_PIPELINE_FRAME_PIPE_H_
#define RUNLOOP_EXAMPLES_FRAME_PIPELINE_FRAME_PIPE_H_

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "runloop/examples/pipeline/v1/frame_pipe.pb.h"
#include "runloop/runtime/operation_context.h"
#include "runloop/runtime/operation_registry.h"

namespace runloop::examples {

// The operations of FramePipe. Its frames' bytes never come here: only their references do.
//
// Threads: Register anywhere, before the runtime exists; the rest on the runtime thread. Owned by
// the registered handlers.
//
// Security: whoever may call it may join a pipe whose name it knows. What a consumer may read is
// what the producer has granted to its session, whatever passes here.
class FramePipes : public std::enable_shared_from_this<FramePipes> {
 public:
  static constexpr size_t kMaxPushed = 32;

  static absl::Status Register(OperationRegistry& operations);

 private:
  // A side of a pipe as its session holds it: leaves with the session.
  class Side;

  struct Pushed {
    pipeline::v1::Frame frame;
    Completion<pipeline::v1::PushReply> done;
  };
  struct Pipe {
    std::string producer, consumer;                                   // sessions; empty: none
    std::optional<Completion<pipeline::v1::ProduceReply>> producing;  // waits for a consumer
    std::optional<Completion<pipeline::v1::PullReply>> pulling;       // waits for a frame
    std::deque<Pushed> pushed;
    std::optional<Completion<pipeline::v1::PushReply>> taken;  // of the frame that is being read
    bool ended = false;                                        // nothing more is pushed
  };

  void Produce(OperationContext& context, const std::string& name,
               Completion<pipeline::v1::ProduceReply> completion);
  absl::StatusOr<pipeline::v1::ConsumeReply> Consume(OperationContext& context,
                                                     const std::string& name);
  void Push(OperationContext& context, pipeline::v1::PushRequest request,
            Completion<pipeline::v1::PushReply> completion);
  void Pull(OperationContext& context, const std::string& name,
            Completion<pipeline::v1::PullReply> completion);
  // Joins the two that wait for each other, if they do.
  static void Advance(Pipe& pipe);
  void Leave(const std::string& name, bool producer);

  std::map<std::string, Pipe> pipes_;
};

}  // namespace runloop::examples

#endif  // RUNLOOP_EXAMPLES_FRAME_PIPELINE_FRAME_PIPE_H_

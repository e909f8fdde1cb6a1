#ifndef RUNLOOP_EXAMPLES_MP4_RECORDER_MP4_SERVICE_H_
#define RUNLOOP_EXAMPLES_MP4_RECORDER_MP4_SERVICE_H_

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runloop/examples/media/v1/mp4_writer.pb.h"
#include "runloop/examples/mp4_recorder/mp4_writer.h"
#include "runloop/runtime/local_context.h"
#include "runloop/runtime/operation_context.h"
#include "runloop/runtime/operation_registry.h"
#include "runloop/runtime/session.h"

namespace runloop::examples {

// The operations of Mp4Writer. A writer belongs to its session, by handle: however it ends, by
// Finish, runloop.v1.Handles/Release, the session's end or a drain, its streams are ended and its
// file is completed while the loop goes on; a file that takes longer than the runtime's
// close_timeout is cut off. Only Finish may take longer, as long as the session lives. A runtime
// that is destroyed without a drain cuts files off.
//
// How a writer gets on, and why it failed, is published to its session, on the topics Progress and
// Failure of Mp4Writer.
//
// Threads: the constructor and Register anywhere, before the runtime exists; the rest on the
// runtime thread. Owned by the registered handlers, so destroyed with the runtime.
//
// Security: a request is a peer's claim. Writers are looked up in the caller's session alone, and a
// file's name is checked to stay in the directory, so a worker reaches neither another's recording
// nor another file.
class Mp4Service : public std::enable_shared_from_this<Mp4Service> {
 public:
  // Writers that a session may have at a time, those that are being closed included: each has
  // threads of its own.
  static constexpr int kMaxWriters = 8;

  // Registers the three operations, which record into `directory`. No effect outside the registry:
  // GStreamer is initialized at the first Open.
  static absl::Status Register(OperationRegistry& operations, std::string directory);

  ~Mp4Service();

  Mp4Service(const Mp4Service&) = delete;
  Mp4Service& operator=(const Mp4Service&) = delete;

 private:
  // What waits for GStreamer. Owned by the thread that starts it, so that it goes if the runtime
  // stops first.
  using Waiting = std::vector<absl::AnyInvocable<void(absl::Status) &&>>;
  // The names of the files that are being written, with their writer's session. An entry goes when
  // its writer is destroyed. Shared with the writers.
  using Files = std::map<std::string, std::string>;
  // A writer as its session keeps it.
  class Recording;

  explicit Mp4Service(std::string directory) : directory_(std::move(directory)) {}

  void Open(OperationContext& context, media::v1::OpenRequest request,
            Completion<media::v1::OpenReply> completion);
  void Append(OperationContext& context, media::v1::AppendRequest request,
              Completion<media::v1::AppendReply> completion);
  void Finish(OperationContext& context, media::v1::FinishRequest request,
              Completion<media::v1::FinishReply> completion);

  // Runs `then` once GStreamer is ready, or with why it never will be.
  void WhenReady(const LocalRuntimeContext& runtime,
                 absl::AnyInvocable<void(absl::Status) &&> then);
  void OnInitialized(const absl::Status& status, Waiting& waiting);
  absl::StatusOr<media::v1::OpenReply> OpenNow(const std::shared_ptr<Session>& session,
                                               const media::v1::OpenRequest& request,
                                               Completion<media::v1::OpenReply>& completion);

  const std::string directory_;
  bool ready_ = false;  // GStreamer is
  std::thread initializer_;
  std::weak_ptr<Waiting> waiting_;
  const std::shared_ptr<Files> files_ = std::make_shared<Files>();
};

}  // namespace runloop::examples

#endif  // RUNLOOP_EXAMPLES_MP4_RECORDER_MP4_SERVICE_H_

#ifndef RUNLOOP_EXAMPLES_MP4_RECORDER_MP4_SERVICE_H_
#define RUNLOOP_EXAMPLES_MP4_RECORDER_MP4_SERVICE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
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

// The operations of Mp4Writer: finds the writer that a request means, among those of its session,
// and closes what a session leaves behind.
//
// Threads: the constructor and Register anywhere, before the runtime exists; the rest on the
// runtime thread. Owned by the registered handlers, so destroyed with the runtime; writers that are
// open then are completed or cut off (Mp4Writer's destructor).
//
// Security: a request is a peer's claim. Writers are looked up in the caller's session alone, and a
// file's name is checked to stay in the directory, so a worker reaches neither another's recording
// nor another file.
class Mp4Service : public std::enable_shared_from_this<Mp4Service> {
 public:
  // Writers that a session may have open at a time: each has threads of its own.
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

  struct Entry {
    std::string session_id;
    std::string file_name;
    std::shared_ptr<Mp4Writer> writer;
    std::optional<Completion<media::v1::FinishReply>> finish;  // of one that is being finished
  };

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
  absl::StatusOr<media::v1::OpenReply> OpenNow(Session& session,
                                               const media::v1::OpenRequest& request);
  // The writer `id` of the session, or NOT_FOUND.
  absl::StatusOr<std::shared_ptr<Mp4Writer>> Find(const Session& session, uint64_t id) const;
  // Ends a writer for its session and completes its file. The entry, and so the file's name, is
  // kept until then.
  void Finish(uint64_t id, Entry entry, absl::Duration timeout);
  // The session has ended: completes the files of the writers that it left, without waiting, and
  // drops every completion of its, since one that is kept keeps the runtime.
  void CloseAll(const std::string& session_id);
  bool InUse(const std::string& file_name) const;

  const std::string directory_;
  bool ready_ = false;  // GStreamer is
  std::thread initializer_;
  std::weak_ptr<Waiting> waiting_;
  uint64_t last_id_ = 0;
  std::map<std::string, std::map<uint64_t, Entry>> sessions_;  // by session id, writer id
  std::map<uint64_t, Entry> finishing_;
};

}  // namespace runloop::examples

#endif  // RUNLOOP_EXAMPLES_MP4_RECORDER_MP4_SERVICE_H_

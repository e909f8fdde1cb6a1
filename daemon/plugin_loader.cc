#include "runloop/daemon/plugin_loader.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runloop/daemon/plugin_probe.h"

namespace runloop {

absl::Status PluginLoader::Load(const std::string& path, OperationRegistry& operations) {
  // Absolute, since the loader would look for a bare name in the system's libraries.
  std::error_code error;
  const std::string absolute = std::filesystem::absolute(path, error).string();
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat("plugin ", path, ": ", error.message()));
  }
  std::vector<std::string> command = options_.probe_command;
  for (const std::string& before : loaded_) {
    command.push_back(absl::StrCat("--probe_plugin=", before));
  }
  command.push_back(absl::StrCat("--probe_plugin=", absolute));
  absl::Status status = daemon::ProbePlugin(command, absolute, options_.probe_timeout);
  if (status.ok()) status = daemon::LoadPluginHere(absolute, operations);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat("plugin ", path, ": ", status.message()));
  }
  loaded_.push_back(absolute);
  return absl::OkStatus();
}

int RunPluginProbe(const std::vector<std::string>& paths) { return daemon::RunPluginProbe(paths); }

}  // namespace runloop

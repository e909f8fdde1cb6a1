#include "runloop/daemon/process_info.h"

#include <dirent.h>

namespace runloop::daemon {
namespace {

uint32_t CountEntries(const char* path) {
  DIR* const directory = opendir(path);
  if (directory == nullptr) return 0;
  uint32_t count = 0;
  while (const dirent* entry = readdir(directory)) {
    if (entry->d_name[0] != '.') ++count;
  }
  closedir(directory);
  return count;
}

}  // namespace

const char* Version() { return RUNLOOP_VERSION; }

uint32_t CountOpenFiles() {
  const uint32_t count = CountEntries("/proc/self/fd");
  return count > 0 ? count - 1 : 0;  // one is the directory's own
}

uint32_t CountThreads() { return CountEntries("/proc/self/task"); }

}  // namespace runloop::daemon

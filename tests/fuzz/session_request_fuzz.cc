// What a peer of a session stream sends: the reader makes of it what protobuf does.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "runloop/daemon/testing/session_request_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // No bound is in the way of an input of a few thousand bytes.
  static auto& reader = *new runloop::daemon::SessionRequestReader(1'000'000);
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::string disagreement =
      runloop::daemon::Disagreement(reader, bytes, size == 0 ? 1 : 1 + data[0]);
  if (!disagreement.empty()) {
    std::fprintf(stderr, "%s\n", disagreement.c_str());
    std::abort();
  }
  return 0;
}

#include "runloop/client/printable.h"

namespace runloop::internal {

std::string Printable(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  int following = 0;  // bytes of a character that has begun
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >> 6 == 2) {
      if (following == 0) {
        result += '?';
      } else if (result.back() == '\xC2' && byte < 0xA0) {
        result.back() = '?';
        following = 0;
      } else {
        result += c;
        --following;
      }
      continue;
    }
    following = byte < 0xC0 ? 0 : byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    const bool control = byte < 0x20 || byte == 0x7F;
    result += !control ? c : c == '\n' || c == '\t' ? ' ' : '?';
  }
  return result;
}

}  // namespace runloop::internal

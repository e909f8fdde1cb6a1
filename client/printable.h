#ifndef RUNLOOP_CLIENT_PRINTABLE_H_
#define RUNLOOP_CLIENT_PRINTABLE_H_

#include <string>
#include <string_view>

namespace runloop::internal {

// `text` on one line and without what steers a terminal: the control characters of ASCII, U+0080 to
// U+009F, and bytes that are no UTF-8 and may be taken for those.
std::string Printable(std::string_view text);

}  // namespace runloop::internal

#endif  // RUNLOOP_CLIENT_PRINTABLE_H_
